"""Jobs of many ranks: which of them run, their groups and collectives, and what they tell one another."""
