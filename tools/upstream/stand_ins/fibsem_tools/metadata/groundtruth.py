"""As in fibsem-tools."""


class LabelList:
    """The class that DaCapo imports; nothing here makes one."""
