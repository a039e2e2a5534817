/* SPDX-License-Identifier: MIT */
/* Findings about a machine, one per line. Each probe asks the kernel; none changes anything. */
#ifndef BENCH_DOCTOR_H
#define BENCH_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>

enum health {
	HEALTH_OK,
	HEALTH_WITHOUT, /* migration works without it; .says tells what is lost */
	HEALTH_MISSING	/* no migration, or no proof by a real guest */
};

struct finding {
	const char *name;
	enum health health;
	char says[420];
	char mend[420]; /* the command that fixes it, or "" */
};

#define FINDINGS_MAX 64u

struct findings {
	struct finding v[FINDINGS_MAX];
	size_t n;
};

/* Adds a finding. mend: the command that fixes it, or NULL; says: a printf format. */
void found(struct findings *f, const char *name, enum health h, const char *mend, const char *says, ...)
	__attribute__((format(printf, 5, 6)));

/* doctor_kernel.c: KVM, userfaultfd and other kernel features */
void probe_kvm(struct findings *f);
void probe_userfaultfd(struct findings *f);
void probe_kernel(struct findings *f);
/* doctor_host.c: memory, tools, links, RDMA devices */
void probe_memory(struct findings *f);
void probe_tools(struct findings *f);
void probe_links(struct findings *f);
void probe_rdma(struct findings *f);

/* doctor_qemu.c: instead of the machine, whether the QEMU with this monitor can be a source */
void probe_qemu(struct findings *f, const char *socket);

#endif
