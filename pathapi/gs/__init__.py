"""cloudpathlib's names of what is in `pathapi.clouds.gs`."""

from pathapi.clouds.gs import GSClient, GSPath

__all__ = ["GSClient", "GSPath"]
