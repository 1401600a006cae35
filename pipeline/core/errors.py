"""The error of a user, as opposed to a defect."""


class UserError(ValueError):
    """Bad input or configuration: the message names the thing, the rule and the fix, in one line.

    Jobs turn it into that line and exit code 2; every other exception is a defect and keeps its traceback.
    """
