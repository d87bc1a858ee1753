"""What an operator does and sees: accounts, credit, reports, upkeep. The web asks these offices, and each act has one way."""
