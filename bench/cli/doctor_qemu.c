// SPDX-License-Identifier: MIT
/* Whether a running QEMU can be a source: the checks that a source makes, each for itself. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "doctor.h"
#include "bench/qemu/bridge.h"

#define ANSWERS_US UINT64_C(10000000)

struct telling {
	struct findings *f;
	const char *name;
	unsigned told;
};

/* A sentence of bench/qemu is what is wrong, "; ", and what mends it. */
static void tell(void *ctx, const char *why)
{
	struct telling *t = ctx;
	const char *cure = strstr(why, "; ");

	t->told++;
	found(t->f, t->name, HEALTH_MISSING, cure ? cure + 2 : NULL, "%.*s",
	      (int)(cure ? (size_t)(cure - why) : strlen(why)), why);
}

static void conclude(struct telling *t, int err, const char *why, const char *fine)
{
	if (err && !t->told)
		tell(t, why);
	else if (!err)
		found(t->f, t->name, HEALTH_OK, NULL, "%s", fine);
	t->told = 0;
}

void probe_qemu(struct findings *f, const char *socket)
{
	struct qemu *m = calloc(1, sizeof(*m));
	struct telling t = { .f = f, .name = "monitor" };
	char fine[200];
	int err;

	if (!m)
		return;
	qemu_init(m, ANSWERS_US);
	m->each = tell;
	m->ctx = &t;
	err = qemu_connect(m, socket, false);
	snprintf(fine, sizeof(fine), "QEMU %u.%u.%u, process %d, answers", m->q.major, m->q.minor, m->q.micro,
		 m->q.pid);
	conclude(&t, err, m->why, fine);
	for (size_t i = 0; i < qemu_nchecks && !err; i++) {
		t.name = qemu_checks[i].name;
		conclude(&t, qemu_checks[i].check(m), m->why, "nothing stands in the way");
	}
	qemu_close(m);
	free(m);
}
