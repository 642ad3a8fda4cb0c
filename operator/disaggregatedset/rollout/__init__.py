"""Pure: from what is desired and what is observed to the writes to make now."""
