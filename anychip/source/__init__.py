"""Source code as the audit and the codemods see it: files, text, scopes, qualified names, where device names flow."""
