// SPDX-License-Identifier: MIT
/* Runs the worlds: both ends of each round as processes, the strikes on the way, and the summary. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "worlds.h"

#define LOOK_NS 1000000
#define BEGINS_US UINT64_C(60000000) /* an end that has not come to its own start by then hangs */
#define LEAVE_US UINT64_C(5000000)   /* threads take their time to leave /proc */
#define SWAP_LINES 1

struct worlds {
	uint64_t seed, seconds, from, count; /* count 0: as many as there is time for */
	bool verbose;
	struct parts parts;
	struct net net;
	struct cgroup cg;
	char dir[64], wire[300];
	struct truth truth;
	struct seen *seen;
	struct world world; /* drawn anew for each round */
	uint64_t rounds, failed, by_outcome[FERRY_OUTCOME_LOST + 1], dead, struck;
	bool own_shm;
};

static const char *const names[] = { "source", "target" };
static volatile sig_atomic_t told_to_end; /* a signal handler has no other way to say it */

static void on_end(int sig)
{
	(void)sig;
	told_to_end = 1;
}

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- an end, seen from outside ---- */

static unsigned count(const char *fmt, pid_t pid)
{
	char path[60];
	struct dirent *e;
	unsigned n = 0;
	DIR *d;

	snprintf(path, sizeof(path), fmt, pid);
	d = opendir(path);
	while (d && (e = readdir(d)))
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

static void count_maps(pid_t pid, unsigned *memfds, unsigned *uffds)
{
	char line[600];
	FILE *f;

	snprintf(line, sizeof(line), "/proc/%d/maps", pid);
	f = fopen(line, "re");
	*memfds = *uffds = 0;
	while (f && fgets(line, sizeof(line), f)) {
		*memfds += !!strstr(line, "memfd:");
		*uffds += !!strstr(line, "anon_inode");
	}
	if (f)
		fclose(f);
}

static void look_at(struct end_seen *e, int when)
{
	uint64_t until = now_us() + LEAVE_US;
	char line[200];
	FILE *f;

	do {
		e->threads[when] = count("/proc/%d/task", e->pid);
		if (!when || e->threads[1] <= e->threads[0])
			break;
		nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
	} while (now_us() < until);
	e->fds[when] = count("/proc/%d/fd", e->pid);
	count_maps(e->pid, &e->memfds[when], &e->uffds[when]);
	snprintf(line, sizeof(line), "/proc/%d/status", e->pid);
	f = fopen(line, "re");
	while (f && fgets(line, sizeof(line), f))
		if (!strcmp(line, "Seccomp:\t2\n"))
			e->filtered = true;
	if (f)
		fclose(f);
}

static void reap(struct end_seen *e)
{
	if (!e->pid || e->ended || waitpid(e->pid, &e->status, WNOHANG) != e->pid)
		return;
	e->ended = true;
	atomic_store(&e->runs, false);
}

/* Where each thread of an end that hangs is. */
static void print_threads(const struct end_seen *e)
{
	static const char *const of[] = { "comm", "wchan", "syscall", "stack" };
	char path[300], line[300];
	struct dirent *t;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", e->pid);
	d = opendir(path);
	while (d && (t = readdir(d))) {
		for (unsigned i = 0; t->d_name[0] != '.' && i < sizeof(of) / sizeof(*of); i++) {
			FILE *f;

			snprintf(path, sizeof(path), "/proc/%d/task/%.20s/%s", e->pid, t->d_name, of[i]);
			f = fopen(path, "re");
			while (f && fgets(line, sizeof(line), f))
				printf("    %.20s %s: %s%s", t->d_name, of[i], line,
				       strchr(line, '\n') ? "" : "\n");
			if (f)
				fclose(f);
		}
	}
	if (d)
		closedir(d);
}

static void kill_end(struct end_seen *e)
{
	if (!e->pid || e->ended)
		return;
	kill(e->pid, SIGKILL);
	waitpid(e->pid, &e->status, 0);
	e->ended = true;
	atomic_store(&e->runs, false);
}

/* ---- a round ---- */

static bool begin_end(struct worlds *g, const struct round *r, int end)
{
	struct end_seen *e = &g->seen->end[end];
	uint64_t until = now_us() + BEGINS_US;

	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid)
		end_main(r, end);
	e->pid = pid; /* shared: the child must not write it */
	while (!e->ended && atomic_load(&e->stage) < STAGE_LISTENS && now_us() < until) {
		reap(e);
		if (atomic_load(&e->stage) == STAGE_CENSUS && atomic_load(&e->go) < STAGE_CENSUS) {
			look_at(e, 0);
			e->threads[0] -=
				end == SRC ? 1 : g->world.vcpus; /* the guest's end before the second look */
			atomic_store(&e->go, STAGE_CENSUS);
		}
		nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
	}
	g->seen->late = !e->ended && atomic_load(&e->stage) < STAGE_LISTENS;
	g->seen->bound_us = BEGINS_US;
	return !e->ended && atomic_load(&e->stage) <= STAGE_RUNS && !g->seen->late;
}

static bool running(const struct end_seen *e)
{
	int stage = atomic_load(&e->stage);

	return e->pid && !e->ended && stage < STAGE_DONE;
}

static bool do_strike(struct worlds *g, const struct strike *k)
{
	struct end_seen *e = &g->seen->end[k->end];

	switch (k->what) {
	case STRIKE_KILL:
		e->struck = true;
		return !kill(e->pid, SIGKILL);
	case STRIKE_STOP:
		return !kill(e->pid, SIGSTOP);
	case STRIKE_CUT:
		return k->for_ms ? net_wire(&g->net, "cut %u", k->for_ms) : net_wire(&g->net, "cut");
	case STRIKE_HOLE:
		return net_wire(&g->net, "hole %u", g->world.net.mtu * 2 / 3);
	case STRIKE_CANCEL:
		atomic_store(&e->cancel, 1);
		return true;
	case STRIKE_SWITCHOVER:
		atomic_store(&e->switchover, 1);
		return true;
	case STRIKE_NOTHING:
		break;
	}
	return false;
}

/* What a round's strike has come to. */
struct blow {
	uint64_t first_us, heal_us; /* 0: not yet; nothing to heal */
	unsigned done;
};

static bool strike_due(const struct worlds *g, const struct blow *b, uint64_t now)
{
	const struct strike *k = &g->world.strike;
	const struct end_seen *e = &g->seen->end[k->end];
	uint64_t entered = atomic_load(&e->phase_us[k->phase]);

	if (k->what == STRIKE_NOTHING)
		return false;
	if (b->done)
		return k->what == STRIKE_CUT && b->done < k->times &&
		       now >= b->first_us + b->done * k->for_ms * UINT64_C(4000);
	return entered && now >= entered + k->delay_ms * UINT64_C(1000) && running(e) &&
	       atomic_load(&e->stage) == STAGE_RUNS && !e->have_result;
}

static void heal(struct worlds *g, struct blow *b)
{
	const struct strike *k = &g->world.strike;

	if (k->what == STRIKE_HOLE)
		net_wire(&g->net, "hole 0");
	else if (k->what == STRIKE_STOP && !g->seen->end[k->end].ended)
		kill(g->seen->end[k->end].pid, SIGCONT);
	b->heal_us = 0;
}

static void strike(struct worlds *g, struct blow *b)
{
	const struct strike *k = &g->world.strike;
	uint64_t now = now_us();

	if (b->heal_us && now >= b->heal_us)
		heal(g, b);
	if (k->what == STRIKE_STOP && b->done && !k->for_ms && !running(&g->seen->end[!k->end])) {
		g->seen->end[k->end].struck = true; /* nobody is left to find out that it stands still */
		kill_end(&g->seen->end[k->end]);
	}
	if (!strike_due(g, b, now) || !do_strike(g, k))
		return;
	g->seen->struck = true;
	b->done++;
	if (!b->first_us)
		b->first_us = now;
	if (k->what != STRIKE_CUT && k->for_ms)
		b->heal_us = now + k->for_ms * UINT64_C(1000);
}

/* Once the other end or the link is gone for good nobody waits for anything but that. */
static uint64_t bound(const struct worlds *g, const struct blow *b, uint64_t begin)
{
	const struct strike *k = &g->world.strike;
	uint64_t most = world_bound_us(&g->world), alone = b->first_us - begin + world_alone_us(&g->world);
	bool gone = k->what == STRIKE_KILL ||
		    ((k->what == STRIKE_STOP || k->what == STRIKE_CUT) && !k->for_ms);

	return b->first_us && gone && alone < most ? alone : most;
}

/* Both run from now on: neither waits for the other to come to its start. */
static void wait_for_ends(struct worlds *g)
{
	uint64_t begin = now_us();
	struct blow blow = { 0 };
	bool filled = false;

	for (int i = 0; i < 2; i++)
		atomic_store(&g->seen->end[i].go, STAGE_LISTENS);
	while (running(&g->seen->end[SRC]) || running(&g->seen->end[TGT])) {
		for (int i = 0; i < 2; i++)
			reap(&g->seen->end[i]);
		strike(g, &blow);
		g->seen->bound_us = bound(g, &blow, begin);
		if (!filled && g->world.lot[TGT].tmpfs_fill &&
		    atomic_load(&g->seen->end[TGT].phase_us[FERRY_PHASE_PRECOPY])) {
			atomic_store(&g->seen->end[TGT].fill, 1);
			filled = true;
		}
		if (now_us() - begin > g->seen->bound_us || told_to_end) {
			g->seen->late = true;
			return;
		}
		nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
	}
	g->seen->ran_us = now_us() - begin;
}

static void wait_in_vain(struct worlds *g)
{
	atomic_store(&g->seen->end[TGT].cancel, 1);
	wait_for_ends(g);
}

static void end_ends(struct worlds *g)
{
	for (int i = 0; i < 2; i++) {
		struct end_seen *e = &g->seen->end[i];

		if (!e->pid || e->ended)
			continue;
		if (g->seen->late && running(e)) {
			printf("  the %s in %s hangs:\n", names[i],
			       ferry_phase_name((enum ferry_phase)atomic_load(&e->phase)));
			print_threads(e);
			kill_end(e);
			continue;
		}
		look_at(e, 1);
		atomic_store(&e->go, STAGE_DONE);
		waitpid(e->pid, &e->status, 0);
		e->ended = true;
	}
}

/* What processes of a round leave outside themselves. */
static void check_left(const struct worlds *g, char *why, size_t cap)
{
	pid_t child = waitpid(-1, NULL, WNOHANG);
	char path[100];

	for (int i = 0; i < 2 && !why[0]; i++) {
		snprintf(path, sizeof(path), "%s/%d", g->dir, i);
		if (rmdir(path) || mkdir(path, 0755))
			snprintf(why, cap, "%s: %s", path, strerror(errno));
	}
	if (why[0])
		return;
	if (child > 0)
		snprintf(why, cap, "a process is left behind (%d)", child);
	else if (g->own_shm && count("/dev/shm", 0))
		snprintf(why, cap, "something is left behind in /dev/shm");
}

static void print_end(const struct end_seen *e, int i)
{
	unsigned used = e->log_used < LOG_KEPT ? e->log_used : LOG_KEPT;

	if (!e->pid)
		return;
	printf("  %s: %s, %d, in %s: \"%s\"%s%s%s%s\n", names[i],
	       e->have_result ? ferry_outcome_name(e->res.outcome) : "no result", e->res.error,
	       ferry_phase_name((enum ferry_phase)e->phase), e->res.detail, e->policy[0] ? "; policy: " : "",
	       e->policy, e->not_opened[0] ? "; not opened: " : "", e->not_opened);
	for (unsigned at = 0, end; at < used; at = end + 1) {
		for (end = at; end < used && e->log[end] && e->log[end] != '\n'; end++)
			;
		if (end > at)
			printf("    %s: %.*s\n", names[i], (int)(end - at), e->log + at);
	}
}

static void tell(struct worlds *g, const char *why)
{
	struct seen *s = g->seen;
	char text[80];

	outcomes_text(text, s);
	g->rounds++;
	g->failed += !!why[0];
	g->struck += s->struck;
	g->dead += !s->end[SRC].have_result || !s->end[TGT].have_result;
	if (s->end[SRC].have_result && s->end[SRC].res.outcome <= FERRY_OUTCOME_LOST)
		g->by_outcome[s->end[SRC].res.outcome]++;
	printf("[%s] worlds::%" PRIu64 ": %s%s in %.1f s%s%s\n", why[0] ? "FAIL" : "PASS", g->world.round,
	       text,
	       g->world.strike.what == STRIKE_NOTHING ? ""
	       : s->struck			      ? ", struck"
						      : ", over before the strike",
	       (double)s->ran_us / 1e6, why[0] ? ": " : "", why);
	if (why[0])
		printf("  to repeat it: tests/soak/run --seed %" PRIu64 " --round %" PRIu64 "\n",
		       g->world.seed, g->world.round);
	for (int i = 0; i < 2; i++)
		if (why[0] || g->verbose)
			print_end(&s->end[i], i);
	fflush(stdout);
}

static void play(struct worlds *g, uint64_t number)
{
	struct round r = { .w = &g->world,
			   .seen = g->seen,
			   .truth = g->truth,
			   .net = g->parts.net ? &g->net : NULL,
			   .cg = g->parts.cgroup ? &g->cg : NULL,
			   .dir = g->dir };
	char why[1200] = "";

	world_draw(&g->world, &g->parts, g->seed, number);
	memset(g->seen, 0, sizeof(*g->seen));
	printf("%" PRIu64 ": ", number);
	world_print(stdout, &g->world);
	printf("\n");
	snprintf(g->seen->uri, sizeof(g->seen->uri), "tcp:" NAME_OF_B ":7000");
	if (r.net && !net_set(r.net, &g->world.net, g->seed + number)) {
		snprintf(why, sizeof(why), "the world did not come about: %s", r.net->why);
	} else {
		if (begin_end(g, &r, TGT) && begin_end(g, &r, SRC))
			wait_for_ends(g);
		else if (running(&g->seen->end[TGT])) /* nobody will come */
			wait_in_vain(g);
		end_ends(g);
		world_judge(why, sizeof(why), &r, &g->parts);
	}
	if (r.net)
		net_wire(r.net, "clear");
	check_left(g, why, sizeof(why));
	if (!told_to_end)
		tell(g, why);
}

/* ---- this machine ---- */

static void skip(const char *part, const char *why)
{
	printf("[SKIP] worlds::%s: %s\n", part, why);
}

static bool have_swap(void)
{
	FILE *f = fopen("/proc/swaps", "re");
	int c, lines = 0;

	while (f && (c = fgetc(f)) != EOF)
		lines += c == '\n';
	if (f)
		fclose(f);
	return lines > SWAP_LINES;
}

static bool have_uffd(void)
{
	long fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0)
		return false;
	close((int)fd);
	return true;
}

/* Names of namespaces that nobody else sees, and that go with this process. */
static bool own_netns(void)
{
	return (!mkdir("/run/netns", 0755) || errno == EEXIST) &&
	       !mount("tmpfs", "/run/netns", "tmpfs", 0, NULL);
}

static void find_parts(struct worlds *g)
{
	struct parts *p = &g->parts;

	p->root = !geteuid();
	p->uffd = have_uffd();
	p->swap = have_swap();
	g->own_shm = p->root && !unshare(CLONE_NEWNS) &&
		     !mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
		     !mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL);
	if (p->root)
		p->cgroup = cgroup_make(&g->cg, "memory");
	if (g->own_shm && !own_netns())
		printf("worlds: /run/netns is everybody's: %s\n", strerror(errno));
	if (p->root)
		p->net = net_up(&g->net, g->wire);
	if (!p->root)
		skip("limits",
		     "not root: no network namespaces, cgroups, tmpfs, limits of threads and locked memory");
	else if (!p->net)
		skip("network", g->net.why);
	if (p->root && !p->cgroup)
		skip("cgroup", "no memory cgroup can be made here");
	if (!p->swap)
		skip("swap", "there is none here");
	if (!p->uffd)
		skip("post-copy", "no userfaultfd is permitted here: refusals are not judged");
}

static void *share(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED) {
		perror("worlds: mmap");
		exit(2);
	}
	return p;
}

static void set_up(struct worlds *g)
{
	char path[100];
	ssize_t n = readlink("/proc/self/exe", g->wire, sizeof(g->wire) - 20);

	snprintf(g->dir, sizeof(g->dir), "/tmp/ferry-worlds.XXXXXX");
	if (n <= 0 || !mkdtemp(g->dir) || chmod(g->dir, 0755)) {
		perror("worlds");
		exit(2);
	}
	g->wire[n] = 0;
	*strrchr(g->wire, '/') = 0;
	strcat(g->wire, "/../net/wire");
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%d", g->dir, i);
		mkdir(path, 0755);
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, on_end);
	signal(SIGINT, on_end);
	find_parts(g);
	g->seen = share(sizeof(*g->seen));
	g->truth = (struct truth){ share(GUEST_MAX),
				   share(GUEST_MAX) }; /* before a cgroup could be charged for it */
}

static void tear_down(struct worlds *g)
{
	static const char *const of[] = { "0", "1", "hosts", "nsswitch" };
	char path[100];

	if (g->parts.root)
		net_down(&g->net);
	if (g->parts.cgroup)
		cgroup_leave(&g->cg);
	for (unsigned i = 0; i < sizeof(of) / sizeof(*of); i++) {
		snprintf(path, sizeof(path), "%s/%s", g->dir, of[i]);
		remove(path);
	}
	rmdir(g->dir);
}

static int usage(void)
{
	fprintf(stderr, "usage: worlds [--seed N] [--seconds N] [--round N] [--count N] [--verbose]\n");
	return 2;
}

static int parse(struct worlds *g, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		uint64_t *at = !strcmp(argv[i], "--seed")      ? &g->seed
			       : !strcmp(argv[i], "--seconds") ? &g->seconds
			       : !strcmp(argv[i], "--round")   ? &g->from
			       : !strcmp(argv[i], "--count")   ? &g->count
							       : NULL;
		char *end;

		if (!strcmp(argv[i], "--verbose")) {
			g->verbose = true;
			continue;
		}
		if (!at || ++i == argc)
			return usage();
		*at = strtoull(argv[i], &end, 10);
		if (*end || end == argv[i])
			return usage();
		if (at == &g->from && !g->count)
			g->count = 1; /* this one alone, unless --count says otherwise */
	}
	return 0;
}

static void summary(const struct worlds *g, uint64_t us)
{
	printf("worlds: seed %" PRIu64 ", %" PRIu64 " rounds in %" PRIu64 " s, %" PRIu64
	       " as they must be; of the sources %" PRIu64 " migrated, %" PRIu64 " were refused, %" PRIu64
	       " fell back, %" PRIu64 " ended in doubt, %" PRIu64 " lost a page server; %" PRIu64
	       " rounds with an end that died or did not begin, %" PRIu64 " were struck\n",
	       g->seed, g->rounds, us / 1000000, g->rounds - g->failed, g->by_outcome[FERRY_OUTCOME_MIGRATED],
	       g->by_outcome[FERRY_OUTCOME_REFUSED], g->by_outcome[FERRY_OUTCOME_FELL_BACK],
	       g->by_outcome[FERRY_OUTCOME_IN_DOUBT], g->by_outcome[FERRY_OUTCOME_LOST], g->dead, g->struck);
}

int main(int argc, char **argv)
{
	static struct worlds g = { .from = 1, .seconds = 60 };
	uint64_t begin = now_us();

	g.seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32;
	g.seed %= 1000000007;
	if (parse(&g, argc, argv))
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	set_up(&g);
	printf("worlds: seed %" PRIu64 " (tests/soak/run --seed %" PRIu64 " --seconds %" PRIu64 ")\n", g.seed,
	       g.seed, g.seconds);
	for (uint64_t i = g.from;
	     !told_to_end && (g.count ? i < g.from + g.count : now_us() - begin < g.seconds * 1000000); i++)
		play(&g, i);
	summary(&g, now_us() - begin);
	tear_down(&g);
	return g.failed ? 1 : 0;
}
