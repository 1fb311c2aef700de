/*
 * skiff-pause holds a pod's namespaces: the network namespace it was started
 * in, and the ones it was cloned into (IPC, UTS, PID, user).
 *
 * usage: skiff-pause HOSTNAME UNSHARE-FLAGS [SYSCTL-FILE VALUE]...
 *
 * With flags it first enters the user namespace that is descriptor 4, the
 * owner of the pod's network namespace, and makes the namespaces of the flags
 * there: a threaded program cannot do that for its child.
 *
 * It sets the hostname (unless empty) and the sysctls from inside the
 * namespaces and says so on the socket that is descriptor 3: a zero byte, or
 * the error as text. It goes on when it gets a byte back: its parent has put
 * it on record then. If the parent dies before that, so does it. Then it waits
 * for a signal; in a PID namespace of its own it is the pod's init and reaps
 * orphans.
 *
 * C and not Go: there is one of it a pod, and it costs 80 kB this way.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PARENT_FD 3
#define USERNS_FD 4

static void fail(const char *what, const char *object)
{
	dprintf(PARENT_FD, "%s %s: %s", what, object, strerror(errno));
	_exit(1);
}

static void set_sysctl(const char *file, const char *value)
{
	int fd = open(file, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		fail("open", file);
	if (write(fd, value, strlen(value)) < 0)
		fail("write", file);
	close(fd);
}

static void enter(const char *flags)
{
	int unshare_flags = (int)strtol(flags, NULL, 10);

	if (!unshare_flags)
		return;
	if (setns(USERNS_FD, CLONE_NEWUSER) < 0)
		fail("enter", "the user namespace");
	close(USERNS_FD);
	if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		fail("become root of", "the user namespace");
	if (unshare(unshare_flags) < 0)
		fail("unshare", flags);
	/* Only a child is in the new PID namespace. The parent knows it by the
	 * sender of its message. */
	if (unshare_flags & CLONE_NEWPID) {
		pid_t child = fork();

		if (child < 0)
			fail("fork into", "the PID namespace");
		if (child > 0)
			_exit(0);
	}
}

static void reap(int sig)
{
	int saved = errno;

	(void)sig;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	errno = saved;
}

static void stop(int sig)
{
	_exit(128 + sig);
}

int main(int argc, char **argv)
{
	struct sigaction on_child = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
	struct sigaction on_stop = {.sa_handler = stop};
	char recorded;

	if (argc < 3 || argc % 2 != 1) {
		errno = EINVAL;
		fail("parse", "arguments");
	}
	enter(argv[2]);
	/* The first process of a PID namespace gets only signals it handles. */
	sigaction(SIGTERM, &on_stop, NULL);
	sigaction(SIGINT, &on_stop, NULL);
	sigaction(SIGCHLD, &on_child, NULL);

	if (argv[1][0] && sethostname(argv[1], strlen(argv[1])) < 0)
		fail("set hostname", argv[1]);
	for (int i = 3; i + 1 < argc; i += 2)
		set_sysctl(argv[i], argv[i + 1]);

	/* Containers of a pod with a shared PID namespace see this name. */
	prctl(PR_SET_NAME, "pause", 0, 0, 0);
	if (write(PARENT_FD, "", 1) != 1 || read(PARENT_FD, &recorded, 1) != 1)
		_exit(1);
	close(PARENT_FD);
	for (;;)
		pause();
}
