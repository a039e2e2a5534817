/* SPDX-License-Identifier: MIT */
/* Shared by the files of the target. */
#ifndef FERRY_TARGET_INT_H
#define FERRY_TARGET_INT_H

#include "target.h"
#include "runtime/session/session.h"

/* A peer can name runs of up to all memory: main handles this many pages, then calls link_still(). */
#define PIECE_PAGES HUGE_PAGES

int target_check_state(struct ferry_session *s, uint64_t len, uint64_t sum);
int target_lend(struct ferry_session *s, bool all);
int target_drop_named(struct ferry_session *s);
int target_pull_start(struct ferry_session *s);	  /* starts the workers that pull, over the current link */
int target_puts_ended(struct ferry_session *s);	  /* joins the workers that land puts, or -EPIPE */
int target_workers_lost(struct ferry_session *s); /* as link_workers_lost(), also for workers that pull */
void target_await_bye(struct ferry_session *s, enum wire_type again);

/* Checks that a run in the named message lies within a region. 0 or -EPROTO. */
int target_check_run(struct ferry_session *s, const char *message, const struct page_run *run);
/* Adds the bits of a RESIDUE message to set; -EPROTO if it names pages that do not exist. */
int residue_recv(struct ferry_session *s, const struct wire_msg *m, struct page_set *set);
/* Adds the pages of a POISON message to tgt.poison; -EPROTO as above. session/poison.h has the theory. */
int poison_recv(struct ferry_session *s, const struct wire_msg *m);
/* Installs all poisoned pages. Call it when all but the residue is here, before anything touches memory. */
int poison_install(struct ferry_session *s);

#endif
