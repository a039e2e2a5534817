// SPDX-License-Identifier: MIT
/*
 * A stock QEMU boards: two of them, unmodified, under TCG, with a guest that has filled its RAM and rewrites a working set.
 * It goes on at the target, or at the source if the target's QEMU or the link is lost; every word that it does not rewrite
 * is as it was.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/qemu/bridge.h"
#include "patience.h"

#define RAM ((size_t)64 << 20)
#define DATA 0x200000u	/* of guest.S: where the filled memory begins */
#define PARAM 0x180000u /* of guest.S */
#define SET ((uint64_t)16 << 20)
#define PER_TICK 40u
#define SLOW ((uint64_t)16 << 20) /* the guest asks before the background fetch has brought everything */
#define PAGE ((size_t)4096)
#define STEP UINT64_C(0x9e3779b97f4a7c15)
#define QMP_US UINT64_C(20000000)
#define SECONDS 120 /* nothing here takes so long */

struct machine {
	char dir[40], socket[60], port[60], ram[60];
	pid_t pid;
	int ram_fd;
	struct qemu m;
	struct ferry_ops ops;
	struct ferry_session *s;
	struct ferry_result res;
	struct ferry_config cfg;
	pthread_t thread;
};

static const char *const one_net[] = { "n0", NULL };
static const struct qemu_hold nothing, network = { .net = one_net };
static bool kill_when_it_runs;
static const char *object_form = "memory-backend-file,id=ram,size=%zu,share=on,mem-path=%s";

static uint64_t patience_us(void)
{
	return QMP_US * patience();
}

/* ---- machines ---- */

static void write_param(char *args[], unsigned *n, unsigned i, uint64_t value)
{
	static char text[5][80];

	snprintf(text[i], sizeof(text[i]), "loader,addr=%#x,data=%#llx,data-len=8", PARAM + 8 * i,
		 (unsigned long long)value);
	args[(*n)++] = "-device";
	args[(*n)++] = text[i];
}

static void spawn(struct machine *v, bool incoming)
{
	static char object[160], chardev[100], qmp[100], size[16];
	const uint64_t param[5] = { RAM, 0, SET, PER_TICK, 40000000 };
	char *args[60];
	unsigned n = 0;
	const char *const fixed[] = {
		"qemu-system-x86_64",
		"-nodefaults",
		"-no-user-config",
		"-display",
		"none",
		"-accel",
		"tcg",
		"-cpu",
		"max",
		"-machine",
		"pc,memory-backend=ram",
		"-m",
		size,
		"-object",
		object,
		"-chardev",
		chardev,
		"-device",
		"isa-debugcon,iobase=0xe9,chardev=port",
		"-qmp",
		qmp,
		"-kernel",
		FERRY_BINARY_DIR "/tests/qemu/guest",
		"-netdev",
		"hubport,id=n0,hubid=0",
		"-device",
		"virtio-net-pci,netdev=n0,romfile=",
	};

	snprintf(size, sizeof(size), "%zu", RAM >> 20);
	/* Forms without a path leave it out. */
	snprintf(object, sizeof(object), object_form, RAM, v->ram);
	snprintf(chardev, sizeof(chardev), "file,id=port,path=%s,append=on", v->port);
	snprintf(qmp, sizeof(qmp), "unix:%s,server=on,wait=off", v->socket);
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		args[n++] = (char *)(uintptr_t)fixed[i];
	for (unsigned i = 0; i < 5; i++)
		write_param(args, &n, i, param[i]);
	if (incoming) {
		args[n++] = "-S";
		args[n++] = "-incoming";
		args[n++] = "defer";
		args[n++] = "-no-shutdown";
	}
	args[n] = NULL;
	v->pid = fork();
	cr_assert_geq(v->pid, 0);
	if (!v->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execvp(args[0], args);
		_exit(127);
	}
}

static void make(struct machine *v, bool incoming)
{
	*v = (struct machine){ .dir = "/tmp/ferry-qemu.XXXXXX", .ram_fd = -1 };
	cr_assert(mkdtemp(v->dir));
	snprintf(v->socket, sizeof(v->socket), "%s/qmp", v->dir);
	snprintf(v->port, sizeof(v->port), "%s/port", v->dir);
	v->ram_fd = memfd_create("ferry-test", MFD_CLOEXEC);
	cr_assert(v->ram_fd >= 0 && !ftruncate(v->ram_fd, (off_t)RAM));
	snprintf(v->ram, sizeof(v->ram), "/proc/%d/fd/%d", getpid(), v->ram_fd);
	spawn(v, incoming);
}

static void await_socket(const struct machine *v)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(a.sun_path, v->socket, sizeof(v->socket));
	for (unsigned ms = 0; connect(fd, (struct sockaddr *)&a, sizeof(a)); ms += 10) {
		cr_assert(ms < SECONDS * 1000 * patience(), "QEMU does not listen");
		usleep(10000);
	}
	close(fd);
}

/* How often the guest has said that it has filled its RAM, or that a tick is done. */
static size_t said(const struct machine *v, char what)
{
	char buf[4096];
	size_t n = 0;
	ssize_t got;
	int fd = open(v->port, O_RDONLY | O_CLOEXEC);

	while (fd >= 0 && (got = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < got; i++)
			n += buf[i] == what;
	if (fd >= 0)
		close(fd);
	return n;
}

static void await_said(const struct machine *v, char what, size_t n)
{
	for (unsigned ms = 0; said(v, what) < n; ms += 10) {
		cr_assert(ms < SECONDS * 1000 * patience(), "the guest does not go on");
		usleep(10000);
	}
}

static void goes_on(const struct machine *v)
{
	await_said(v, '.', said(v, '.') + 20);
}

/* The n-th write of the guest to its working set: which page, and what. */
struct write {
	uint64_t page, value;
};

static struct write next_write(uint64_t *rng)
{
	*rng ^= *rng << 13;
	*rng ^= *rng >> 7;
	*rng ^= *rng << 17;
	return (struct write){ (uint64_t)((unsigned __int128)*rng * (SET / PAGE) >> 64), *rng };
}

/*
 * What the guest has written last to each page of its working set, after so many ticks; it may have done a part of the
 * next one.
 */
static void working_set_is_right(const uint64_t *ram, size_t ticks)
{
	static uint64_t last[SET / PAGE];
	struct write more[PER_TICK];
	uint64_t rng = 1;

	for (uint64_t i = 0; i < SET / PAGE; i++)
		last[i] = (i * STEP) | 1;
	for (size_t i = 0; i < ticks * PER_TICK; i++) {
		struct write w = next_write(&rng);

		last[w.page] = w.value;
	}
	for (size_t i = 0; i < PER_TICK; i++)
		more[i] = next_write(&rng);
	for (uint64_t i = 0; i < SET / PAGE; i++) {
		uint64_t is = ram[(DATA + i * PAGE) / 8];
		bool right = is == last[i];

		for (size_t k = 0; k < PER_TICK; k++)
			right |= more[k].page == i && more[k].value == is;
		cr_assert(right, "page %llu of the working set is %llx after %zu ticks, %llx was due",
			  (unsigned long long)i, (unsigned long long)is, ticks, (unsigned long long)last[i]);
	}
}

/* The VM is stopped meanwhile. ticks: of all that it has done anywhere. */
static void memory_is_right(struct machine *v, size_t ticks_before)
{
	uint64_t *ram = mmap(NULL, RAM, PROT_READ, MAP_SHARED, v->ram_fd, 0);

	cr_assert_neq(ram, MAP_FAILED);
	cr_assert_eq(qmp_call(&v->m.q, "stop", NULL, patience_us(), NULL), 0, "%s", v->m.q.why);
	working_set_is_right(ram, ticks_before + said(v, '.'));
	for (uint64_t page = DATA / PAGE, i = 0; page < RAM / PAGE; page++, i++) {
		uint64_t due = (i * STEP) | 1;

		for (size_t k = 0; k < PAGE / 8; k++, due += STEP) {
			bool rewritten = !k && (page - DATA / PAGE) * PAGE < SET;

			cr_assert(rewritten || ram[page * PAGE / 8 + k] == due,
				  "page %llu, word %zu is wrong", (unsigned long long)page, k);
		}
	}
	cr_assert_eq(qmp_call(&v->m.q, "cont", NULL, patience_us(), NULL), 0, "%s", v->m.q.why);
	munmap(ram, RAM);
}

static void destroy(struct machine *v)
{
	qemu_close(&v->m);
	if (v->pid > 0) {
		kill(v->pid, SIGKILL);
		waitpid(v->pid, NULL, 0);
	}
	close(v->ram_fd);
	unlink(v->socket);
	unlink(v->port);
	rmdir(v->dir);
}

/* ---- migrations ---- */

static void *run(void *arg)
{
	struct machine *v = arg;

	v->res.size = sizeof(v->res);
	ferry_run(v->s, &v->res);
	return NULL;
}

static int (*resume)(void *vm);

static int resume_and_die(void *vm)
{
	struct qemu *m = vm;
	int err = resume(vm);

	if (kill_when_it_runs)
		kill(m->q.pid, SIGKILL);
	return err;
}

static void needs_qemu(void)
{
	if (system("command -v qemu-system-x86_64 >/dev/null"))
		cr_skip_test("qemu-system-x86_64 is not installed");
}

static void start_both(struct machine *src, struct machine *tgt, const struct qemu_hold *hold)
{
	needs_qemu();
	make(src, false);
	await_said(src, '.', 5);
	make(tgt, true);
	cr_assert_eq(qemu_target_open(&tgt->m, tgt->socket, tgt->pid, hold, patience_us()), 0, "%s",
		     tgt->m.why);
	cr_assert_eq(qemu_source_open(&src->m, src->socket, patience_us()), 0, "%s", src->m.why);
	src->cfg = tgt->cfg = (struct ferry_config){ FERRY_CONFIG_INIT, .reconnect_us = 1000000 };
	tgt->ops = qemu_target_ops(&tgt->m);
	resume = tgt->ops.resume;
	tgt->ops.resume = resume_and_die;
	src->ops = qemu_source_ops;
}

static void run_both(struct machine *src, struct machine *tgt)
{
	struct ferry_vm sv = { FERRY_VM_INIT, .vm = &src->m, .ops = &src->ops, .regions = src->m.region,
			       .nregions = src->m.nram };
	struct ferry_vm tv = { FERRY_VM_INIT, .vm = &tgt->m, .ops = &tgt->ops };
	char uri[100];

	cr_assert_eq(ferry_target_new(&tgt->s, &tv, &tgt->cfg), 0);
	cr_assert_eq(ferry_open(tgt->s, "tcp:127.0.0.1:0"), 0);
	cr_assert_eq(ferry_get_uri(tgt->s, uri, sizeof(uri)), 0);
	cr_assert_eq(ferry_source_new(&src->s, &sv, &src->cfg), 0);
	cr_assert_eq(ferry_open(src->s, uri), 0);
	cr_assert(!pthread_create(&tgt->thread, NULL, run, tgt) &&
		  !pthread_create(&src->thread, NULL, run, src));
	pthread_join(src->thread, NULL);
	pthread_join(tgt->thread, NULL);
	ferry_free(src->s);
	ferry_free(tgt->s);
}

static void migrated(struct machine *src, struct machine *tgt)
{
	cr_assert(src->res.outcome == FERRY_OUTCOME_MIGRATED && tgt->res.outcome == FERRY_OUTCOME_MIGRATED,
		  "source: %s; target: %s; %s; %s", src->res.detail, tgt->res.detail, src->m.why, tgt->m.why);
	goes_on(tgt);
	memory_is_right(tgt, said(src, '.'));
	cr_assert_eq(waitpid(src->pid, NULL, 0), src->pid); /* it has quit */
	src->pid = 0;
	cr_assert_eq(said(tgt, 'F'), 0);
}

static void both_end(struct machine *src, struct machine *tgt)
{
	destroy(tgt);
	destroy(src);
}

static void moves(struct ferry_config cfg, const struct qemu_hold *hold)
{
	struct machine src, tgt;

	start_both(&src, &tgt, hold);
	src.cfg.mode = cfg.mode;
	src.cfg.commit_at = cfg.commit_at;
	src.cfg.max_rounds = cfg.max_rounds;
	if (cfg.mode == FERRY_MODE_POSTCOPY)
		tgt.cfg.bandwidth = SLOW;
	run_both(&src, &tgt);
	migrated(&src, &tgt);
	if (cfg.mode == FERRY_MODE_POSTCOPY)
		cr_assert(src.res.stats.pages_residue > 100 && tgt.res.stats.faults > 0,
			  "%llu pages were left and %llu faults needed the source",
			  (unsigned long long)src.res.stats.pages_residue,
			  (unsigned long long)tgt.res.stats.faults);
	both_end(&src, &tgt);
}

Test(bridge, stop_and_copy)
{
	moves((struct ferry_config){ .mode = FERRY_MODE_STOP_AND_COPY }, &nothing);
}

Test(bridge, post_copy_with_its_output_held)
{
	moves((struct ferry_config){ .mode = FERRY_MODE_POSTCOPY, .max_rounds = 1 }, &network);
}

Test(bridge, post_copy_committed_at_the_switchover)
{
	moves((struct ferry_config){ .mode = FERRY_MODE_POSTCOPY,
				     .max_rounds = 1,
				     .commit_at = FERRY_COMMIT_AT_SWITCHOVER },
	      &nothing);
}

/* The source runs on, and can be migrated again. */
Test(bridge, a_target_that_is_killed_falls_back)
{
	struct machine src, tgt;

	kill_when_it_runs = true;
	start_both(&src, &tgt, &network);
	src.cfg.mode = FERRY_MODE_POSTCOPY;
	src.cfg.max_rounds = 1;
	tgt.cfg.bandwidth = 4 << 20;
	run_both(&src, &tgt);
	cr_assert_eq(src.res.outcome, FERRY_OUTCOME_FELL_BACK, "source: %s; target: %s", src.res.detail,
		     tgt.res.detail);
	cr_assert_eq(tgt.res.owner, FERRY_OWNER_SOURCE);
	goes_on(&src);
	memory_is_right(&src, 0); /* what it did over there has not been */
	tgt.pid = 0;
	destroy(&tgt);
	qemu_close(&src.m);

	kill_when_it_runs = false;
	make(&tgt, true);
	cr_assert_eq(qemu_target_open(&tgt.m, tgt.socket, tgt.pid, &network, patience_us()), 0, "%s",
		     tgt.m.why);
	cr_assert_eq(qemu_source_open(&src.m, src.socket, patience_us()), 0, "%s", src.m.why);
	src.cfg = tgt.cfg = (struct ferry_config){ FERRY_CONFIG_INIT };
	tgt.ops = qemu_target_ops(&tgt.m);
	src.cfg.mode = FERRY_MODE_POSTCOPY;
	run_both(&src, &tgt);
	migrated(&src, &tgt);
	both_end(&src, &tgt);
}

/* ---- what cannot board, and why ---- */

static void refused(const char *form, bool incoming, bool as_target, int err, const char *says)
{
	struct machine v;
	int is;

	needs_qemu();
	object_form = form;
	make(&v, incoming);
	await_socket(&v);
	is = as_target ? qemu_target_open(&v.m, v.socket, 0, &nothing, patience_us())
		       : qemu_source_open(&v.m, v.socket, patience_us());
	cr_assert_eq(is, err, "%d: %s", is, v.m.why);
	cr_assert(strstr(v.m.why, says), "\"%s\" does not say \"%s\"", v.m.why, says);
	destroy(&v);
}

Test(boards_not, ram_that_is_in_no_file)
{
	refused("memory-backend-ram,id=ram,size=%zu", false, false, -EOPNOTSUPP, "use memory-backend-file");
}

Test(boards_not, ram_of_a_memfd_backend)
{
	refused("memory-backend-memfd,id=ram,share=on,size=%zu", false, false, -EOPNOTSUPP,
		"would put into the device state");
}

Test(boards_not, ram_that_is_private)
{
	refused("memory-backend-file,id=ram,size=%zu,share=off,mem-path=%s", false, false, -EOPNOTSUPP,
		"give it share=on");
}

Test(boards_not, a_source_that_waits_for_a_vm)
{
	refused("memory-backend-file,id=ram,size=%zu,share=on,mem-path=%s", true, false, -EBUSY,
		"is not running: inmigrate");
}

Test(boards_not, a_target_that_runs_a_vm)
{
	refused("memory-backend-file,id=ram,size=%zu,share=on,mem-path=%s", false, true, -EINVAL,
		"does not wait for a VM");
}
