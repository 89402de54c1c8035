"""What a user can mend."""


class UserError(Exception):
    """A mistake or a circumstance that the user can mend; the message is one line that says how."""
