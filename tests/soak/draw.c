// SPDX-License-Identifier: MIT
/* What a run of the soak is, drawn from the seed and its number, and as a command line. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "rng.h"
#include "soak.h"

#define MIB (UINT64_C(1) << 20)
#define MEMORY_MIN (64 * MIB)

static const char *any(struct draw *d, size_t n, const char *const *of)
{
	return of[rng_below(&d->rng, n)];
}
#define ANY(d, ...)                                                           \
	any(d, sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *), \
	    (const char *const[]){ __VA_ARGS__ })

static void arg(struct draw *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void arg(struct draw *d, const char *fmt, ...)
{
	char *at = d->text + d->used;
	va_list ap;

	va_start(ap, fmt);
	d->used += (size_t)vsnprintf(at, DRAW_TEXT - d->used, fmt, ap) + 1;
	va_end(ap);
	d->argv[d->argc++] = at;
}

/* As many small guests as large ones: each doubling is as likely. */
static uint64_t draw_memory(struct draw *d, uint64_t max)
{
	uint64_t size = MEMORY_MIN, doublings = 0;

	while (MEMORY_MIN << (doublings + 1) <= max)
		doublings++;
	size <<= doublings ? rng_below(&d->rng, doublings + 1) : 0;
	size += rng_below(&d->rng, size / (2 * MIB)) * 2 * MIB;
	return size < max ? size : max;
}

static void draw_guest(struct draw *d, uint64_t memory_max)
{
	uint64_t memory = draw_memory(d, memory_max);

	arg(d, "--memory=%" PRIu64 "M", memory / MIB);
	arg(d, "--memory-kind=%s", ANY(d, "anon", "memfd"));
	arg(d, "--working-set=%" PRIu64 "k", 4096 + rng_below(&d->rng, memory / 2048 - 4096));
	arg(d, "--dirty-rate=%s", ANY(d, "0", "1000", "20000", "50000", "150000"));
	arg(d, "--populate=%s", ANY(d, "0", "30", "100", "100"));
	arg(d, "--prealloc=%s", ANY(d, "on", "off"));
	arg(d, "--vcpus=%s", ANY(d, "1", "1", "2"));
	arg(d, "--seed=%" PRIu64, rng_below(&d->rng, 1000000));
}

static void draw_way(struct draw *d)
{
	arg(d, "--mode=%s", ANY(d, "auto", "stop-and-copy", "post-copy", "post-copy"));
	arg(d, "--commit-at=%s", ANY(d, "default", "complete", "switchover"));
	arg(d, "--channels=%" PRIu64, 1 + rng_below(&d->rng, 4));
	arg(d, "--downtime=%s", ANY(d, "10ms", "100ms", "300ms", "2s"));
	arg(d, "--max-rounds=%" PRIu64, 1 + rng_below(&d->rng, 13));
	if (rng_one_in(&d->rng, 4))
		arg(d, "--bandwidth=%s", ANY(d, "300M", "600M"));
	if (rng_one_in(&d->rng, 6)) {
		arg(d, "--hold-limit=%s", ANY(d, "20ms", "100ms"));
		arg(d, "--hold-action=%s", ANY(d, "fallback", "commit"));
	}
}

static void draw_drill(struct draw *d)
{
	const char *phase = ANY(d, "pre-migration", "reservation", "pre-copy", "stop-and-copy", "post-copy",
				"post-copy", "commitment", "commitment", "activation");

	switch (rng_below(&d->rng, 6)) {
	case 0:
	case 1:
		break;
	case 2:
		arg(d, "--kill=source@%s", phase);
		break;
	case 3:
		arg(d, "--kill=target@%s", phase);
		break;
	case 4:
		arg(d, "--kill=link@%s", phase);
		break;
	case 5:
		arg(d, "--kill=link@%s:%" PRIu64, phase, 20 + rng_below(&d->rng, 200));
		break;
	}
}

void draw_run(struct draw *d, uint64_t seed, uint64_t number, uint64_t memory_max, const char *arbiter)
{
	*d = (struct draw){ .rng = rng_seed(seed, number) };
	arg(d, "rdma-migrate");
	arg(d, "run");
	draw_guest(d, memory_max);
	draw_way(d);
	draw_drill(d);
	arg(d, "--timeout=2s");
	arg(d, "--reconnect=1s");
	arg(d, "--run-on=100ms");
	arg(d, "--floor=off");
	arg(d, "--quiet");
	if (rng_one_in(&d->rng, 2))
		arg(d, "--arbiter=%s", arbiter);
	arg(d, "--thp=%s", ANY(d, "on", "off"));
}

void draw_print(FILE *out, const struct draw *d)
{
	for (int i = 0; i < d->argc; i++)
		fprintf(out, "%s%s", i ? " " : "", d->argv[i]);
}
