"""A business's Messenger and Instagram inbox as tables that can be queried."""
