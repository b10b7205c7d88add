"""How we talk to Meta: one door for HTTP, pure decisions beside it."""
