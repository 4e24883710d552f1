"""What a published run says, in words and numbers of its source, and what rules make of it."""
