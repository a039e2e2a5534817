/* SPDX-License-Identifier: MIT */
/*
 * Both ends in one process and no VM at all: 16 MiB of memory move from one to the other. Valid C and C++;
 * inproc.rs is the same in Rust.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <ferry/ferry.h>

#define LEN ((size_t)16 << 20)

struct end {
	unsigned char *ram;
	struct ferry_session *session;
	struct ferry_result result;
};

static int op_ok(void *vm)
{
	return vm ? 0 : -1;
}

/* Nothing tracks writes here: every page counts as dirty, until the VM is paused. */
static int op_dirty_fetch(void *vm, uint32_t region, uint64_t *bits, uint64_t npages, unsigned flags)
{
	(void)region;
	if (!(flags & FERRY_DIRTY_LAST))
		memset(bits, 0xff, npages / 8);
	return op_ok(vm);
}

static int op_save(void *vm, struct ferry_stream *out)
{
	return vm ? ferry_stream_put(out, 1, 1, "registers", 9) : -1;
}

static int op_load(void *vm, struct ferry_stream *in)
{
	struct ferry_section sec;
	int more;

	while ((more = ferry_stream_next(in, &sec)) == 1)
		if (sec.id != 1 || sec.len != 9 || memcmp(sec.data, "registers", 9))
			return ferry_stream_fail(in, -22, "section %u is not what was saved", sec.id);
	return more ? more : op_ok(vm);
}

static unsigned char *new_ram(void)
{
	void *p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : (unsigned char *)p;
}

static int op_reserve(void *vm, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	struct end *e = (struct end *)vm;

	if (n != 1 || regions[0].len != LEN)
		return ferry_stream_fail(needs, -22, "one region of 16 MiB is what this program takes");
	e->ram = new_ram();
	regions[0].hva = e->ram;
	return e->ram ? 0 : -12;
}

static void op_log(void *vm, int level, const char *line)
{
	if (vm && level <= 4)
		fprintf(stderr, "%s\n", line);
}

static struct ferry_ops make_ops(void)
{
	struct ferry_ops ops;

	memset(&ops, 0, sizeof(ops));
	ops.size = sizeof(ops);
	ops.reserve = op_reserve;
	ops.dirty_start = ops.dirty_stop = ops.pause = ops.resume = ops.discard = op_ok;
	ops.dirty_fetch = op_dirty_fetch;
	ops.save = op_save;
	ops.load = op_load;
	ops.log = op_log;
	return ops;
}

static void *run(void *arg)
{
	struct end *e = (struct end *)arg;

	e->result.size = sizeof(e->result);
	ferry_run(e->session, &e->result);
	return NULL;
}

int main(void)
{
	struct end source, target;
	struct ferry_ops ops = make_ops();
	struct ferry_region ram;
	struct ferry_vm vm;
	pthread_t thread;
	int bad;

	memset(&source, 0, sizeof(source));
	memset(&target, 0, sizeof(target));
	memset(&ram, 0, sizeof(ram));
	memset(&vm, 0, sizeof(vm));
	source.ram = new_ram();
	if (!source.ram)
		return 1;
	for (size_t i = 0; i < LEN; i += 64)
		source.ram[i] = (unsigned char)(i >> 12 ^ i);
	ram.len = LEN;
	ram.hva = source.ram;
	ram.fd = -1;
	ram.page_shift = 12;
	vm.size = sizeof(vm);
	vm.ops = &ops;
	vm.vm = &target;
	if (ferry_target_new(&target.session, &vm, NULL) || ferry_open(target.session, "mem:inproc"))
		return 1;
	vm.vm = &source;
	vm.regions = &ram;
	vm.nregions = 1;
	if (ferry_source_new(&source.session, &vm, NULL) || ferry_open(source.session, "mem:inproc"))
		return 1;
	if (pthread_create(&thread, NULL, run, &target))
		return 1;
	run(&source);
	pthread_join(thread, NULL);
	bad = !target.ram || memcmp(source.ram, target.ram, LEN);
	printf("libferry %s: source %s, target %s, owner %s; memory %s\n", ferry_version(),
	       ferry_outcome_name(source.result.outcome), ferry_outcome_name(target.result.outcome),
	       ferry_owner_name(target.result.owner), bad ? "differs" : "is the same");
	ferry_free(source.session);
	ferry_free(target.session);
	return bad || source.result.owner != FERRY_OWNER_TARGET;
}
