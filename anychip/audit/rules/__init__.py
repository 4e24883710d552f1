"""The rules, one file each; see anychip.audit.rule for the form. Files that begin with _ are shared tables."""
