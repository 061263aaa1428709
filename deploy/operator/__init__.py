"""The operator's page: a local web page beside the arm, in a process of its own with no authority over it.

It reads the shared memory of the daemon, and asks the supervisor's control socket like any other client; there is no
second way to the robot. ``python -m robopolicy.deploy.operator RUN_DIR PARENT_PID`` is started by the supervisor when
``deploy.operator.port`` is 0 or more.
"""

from robopolicy.deploy.operator.access import TOKEN_FILE, URL_FILE, page_url

__all__ = ["TOKEN_FILE", "URL_FILE", "page_url"]
