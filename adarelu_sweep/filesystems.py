"""Which file system a folder is on, because SQLite's write-ahead log needs shared memory."""

from pathlib import Path

import psutil

_NETWORK = {
    *(
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "afs",
        "ncpfs",
        "9p",
        "ceph",
        "lustre",
    ),
    *("gpfs", "beegfs", "glusterfs", "orangefs", "pvfs2", "wekafs", "panfs", "ocfs2", "gfs2"),
}
_OVER_FUSE = {
    *("sshfs", "glusterfs", "ceph", "beegfs", "s3fs", "rclone", "gcsfuse", "davfs", "smbnetfs"),
    *("juicefs", "mountpoint-s3", "gvfsd-fuse", "moosefs", "seaweedfs", "curlftpfs"),
}


def filesystem(path: Path) -> str:
    """Return the type of the file system that holds a path; nothing where it cannot be known."""
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    whole = path.resolve()
    return next((mounts[place] for place in (whole, *whole.parents) if place in mounts), "")


def network_filesystem(path: Path) -> str | None:
    """Return the type of the network file system that holds a path, or None for a local one."""
    kind = filesystem(path)
    over_fuse = kind.removeprefix("fuse.") in _OVER_FUSE
    return kind if kind in _NETWORK or over_fuse else None


def home_warnings(home: Path) -> list[str]:
    """Return what is to be known of a home on a network file system: a line, or nothing."""
    kind = network_filesystem(home)
    if kind is None:
        return []
    return [
        f"{home} is on a network file system ({kind}), where SQLite works without its write-ahead "
        "log: 'status' and the sweep wait for each other, and all of a study has to run on one "
        "machine at a time; a home on a local disk, as --home gives it, is faster and safer"
    ]
