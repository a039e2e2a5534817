/* SPDX-License-Identifier: MIT */
/* Functions that fakevm.c and fakevm_world.c share. */
#ifndef TESTS_FAKEVM_INT_H
#define TESTS_FAKEVM_INT_H

#include "fakevm.h"

/* fakevm.c */
void fake_guest_writes(struct fakevm *vm, uint64_t n); /* the source's guest: n pages and one output */
void fake_fill(uint8_t *page, uint64_t seed);
size_t fake_offset(unsigned region, uint64_t page); /* of a page in shadow and frozen */
uint64_t fake_region_pages(const struct fakevm *vm, unsigned region);
uint8_t *fake_page(const struct fakevm *vm, unsigned region, uint64_t page);
/* The fake arbiter: a test that wants one puts it into ops.arbiter. */
extern int (*const fake_arbiter)(void *vm, const uint8_t session[16], enum ferry_owner want,
				 enum ferry_owner *is);

/* fakevm_world.c */
void fake_set_running(struct fakevm *vm, bool runs);
void fake_hold(struct fakevm *vm);
void fake_release(struct fakevm *vm);
void fake_emit(struct fakevm *vm); /* one numbered output */
int fake_start_cpu(struct fakevm *vm);
void fake_stop_cpu(struct fakevm *vm);

#endif
