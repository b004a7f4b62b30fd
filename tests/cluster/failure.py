"""The one error of this package: a line that says what is wrong and what to do."""


class ClusterError(Exception):
    """What a contributor reads when the cluster cannot be brought up, used or taken down."""
