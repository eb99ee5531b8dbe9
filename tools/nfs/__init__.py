"""A real NFS: Linux kernels that run as processes, one as the server and others as hosts that mount it."""
