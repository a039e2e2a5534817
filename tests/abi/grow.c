/* SPDX-License-Identifier: MIT */
/*
 * What a program gets from the library, said so that it is the same whichever version of the header it was built with:
 * tests/abi/grow.sh compares. The VM is that of docs/examples/inproc.c.
 */
#define main inproc_main
#include "docs/examples/inproc.c"
#undef main

#define CANARY 0x5a

/* Whoever writes beyond what the caller has writes here. */
struct guarded {
	struct ferry_result result;
	unsigned char after_result[256];
	struct ferry_stats stats;
	unsigned char after_stats[256];
};

static uint64_t rounds, pages_in_rounds;

static void op_event(void *vm, const struct ferry_event *ev)
{
	if (!vm || ev->type != FERRY_EVENT_ROUND)
		return;
	rounds++;
	pages_in_rounds += ev->round.pages_sent;
}

static int intact(const unsigned char *p, size_t n)
{
	while (n && p[n - 1] == CANARY)
		n--;
	return !n;
}

static void say(const char *end, struct guarded *g, struct ferry_session *s)
{
	const struct ferry_result *r = &g->result;

	memset(&g->stats, 0, sizeof(g->stats));
	g->stats.size = sizeof(g->stats);
	if (ferry_get_stats(s, &g->stats))
		printf("no counters\n");
	printf("%s: %s, owner %s, claim %s, %s, reason %s, error %d, op %s, %s; thp %d %d; of %lu pages %lu sent, %lu residue, %d, faults %d\n",
	       end, ferry_outcome_name(r->outcome), ferry_owner_name(r->owner), ferry_owner_name(r->claim),
	       ferry_phase_name(r->phase), ferry_reason_name(r->reason), r->error, r->op, r->detail,
	       r->thp_before != 0, r->thp_after != 0, (unsigned long)g->stats.pages_total,
	       (unsigned long)g->stats.pages_sent, (unsigned long)g->stats.pages_residue,
	       r->stats.pages_total == g->stats.pages_total && r->stats.pages_sent == g->stats.pages_sent,
	       g->stats.faults != 0);
	printf("%s: downtime %s; size %d %d; intact %d %d\n", end,
	       g->stats.downtime.total_us ? "measured" : "not", r->size == sizeof(*r),
	       g->stats.size == sizeof(g->stats) && r->stats.size <= sizeof(r->stats),
	       intact(g->after_result, sizeof(g->after_result)),
	       intact(g->after_stats, sizeof(g->after_stats)));
}

static struct guarded at_source, at_target;

static void *run_target(void *session)
{
	ferry_run((struct ferry_session *)session, &at_target.result);
	return NULL;
}

static void clear(struct guarded *g)
{
	memset(g, CANARY, sizeof(*g));
	ferry_init(&g->result, sizeof(g->result));
}

int main(void)
{
	struct end source, target;
	struct ferry_ops ops = make_ops();
	struct ferry_region ram;
	struct ferry_config cfg;
	struct ferry_vm vm;
	pthread_t thread;

	memset(&target, 0, sizeof(target));
	memset(&ram, 0, sizeof(ram));
	clear(&at_source);
	clear(&at_target);
	ops.event = op_event;
	source.ram = new_ram();
	if (!source.ram)
		return 1;
	memset(source.ram, 1, LEN);
	ram.len = LEN;
	ram.hva = source.ram;
	ram.fd = -1;
	ram.page_shift = 12;
	ferry_init(&cfg, sizeof(cfg));
	cfg.mode = FERRY_MODE_STOP_AND_COPY;
	cfg.max_rounds = 1;
	cfg.downtime_us = 10000000;
	cfg.session[15] = 7;
	ferry_init(&vm, sizeof(vm));
	vm.ops = &ops;
	vm.vm = &target;
	if (ferry_target_new(&target.session, &vm, NULL) || ferry_open(target.session, "mem:grow"))
		return 1;
	vm.vm = &source;
	vm.regions = &ram;
	vm.nregions = 1;
	if (ferry_source_new(&source.session, &vm, &cfg) || ferry_open(source.session, "mem:grow"))
		return 1;
	if (pthread_create(&thread, NULL, run_target, target.session))
		return 1;
	ferry_run(source.session, &at_source.result);
	pthread_join(thread, NULL);
	say("source", &at_source, source.session);
	say("target", &at_target, target.session);
	printf("%lu rounds, %lu pages; session ends in %d; memory %s\n", (unsigned long)rounds,
	       (unsigned long)pages_in_rounds, at_target.result.session[15],
	       memcmp(source.ram, target.ram, LEN) ? "differs" : "is the same");
	ferry_free(source.session);
	ferry_free(target.session);
	return 0;
}
