"""Other libraries' models, as the doctor examines them; each is imported only when it is met."""
