"""A logger in a process of its own under a file size limit: what a full disk looks like to it."""

import resource
import sys

from robopolicy.deploy.logger import main

if __name__ == "__main__":
    limit = int(sys.argv[3])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(main(sys.argv[1:3]))
