/* SPDX-License-Identifier: MIT */
/* The RAM of a running QEMU: which files it is in, and where QEMU has them mapped. */
#ifndef BENCH_QEMU_RAM_H
#define BENCH_QEMU_RAM_H

#include <stddef.h>
#include <stdint.h>

#include "qmp.h"

#define QEMU_RAMS 16

struct qemu_ram {
	char id[64];	 /* of the memory-backend-file */
	char path[256];	 /* its mem-path */
	uint64_t len;	 /* bytes */
	uint64_t offset; /* in the file */
	uint64_t addr;	 /* in QEMU */
	uint32_t page_shift;
	int fd; /* open for reading and writing */
};

/*
 * Finds all RAM. Refuses, with a sentence in why, what x-ignore-shared would not leave out of the state: RAM that is
 * not shared, or not in a named file. ram has room for QEMU_RAMS; *n of them are filled, even after an error:
 * ram_close() them.
 */
int ram_find(struct qmp *q, struct qemu_ram *ram, size_t *n, uint64_t timeout_us, char *why, size_t cap);
void ram_close(struct qemu_ram *ram, size_t n);

#endif
