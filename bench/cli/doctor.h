/* SPDX-License-Identifier: MIT */
/* What a machine offers to a migration, line by line. Each probe asks the kernel; none changes anything. */
#ifndef BENCH_DOCTOR_H
#define BENCH_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>

enum health {
	HEALTH_OK,
	HEALTH_WITHOUT, /* works without: says what is lost */
	HEALTH_MISSING	/* a migration, or its proof by a real guest, cannot be done */
};

struct finding {
	const char *name;
	enum health health;
	char says[200];
	char mend[200]; /* the one command, or "" */
};

#define FINDINGS_MAX 64u

struct findings {
	struct finding v[FINDINGS_MAX];
	size_t n;
};

/* mend: the command, or NULL; says is formatted. */
void found(struct findings *f, const char *name, enum health h, const char *mend, const char *says, ...)
	__attribute__((format(printf, 5, 6)));

/* doctor_kernel.c: KVM, userfaultfd and what else the kernel has */
void probe_kvm(struct findings *f);
void probe_userfaultfd(struct findings *f);
void probe_kernel(struct findings *f);
/* doctor_host.c: memory, tools, links, RDMA devices */
void probe_memory(struct findings *f);
void probe_tools(struct findings *f);
void probe_links(struct findings *f);
void probe_rdma(struct findings *f);

#endif
