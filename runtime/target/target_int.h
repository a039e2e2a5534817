/* SPDX-License-Identifier: MIT */
/* What the files of the target share. */
#ifndef FERRY_TARGET_INT_H
#define FERRY_TARGET_INT_H

#include "target.h"
#include "runtime/session/session.h"

/* A peer names runs of up to all memory: what main does to so many pages is one piece, and then it looks up (link_still()). */
#define PIECE_PAGES HUGE_PAGES

int target_check_state(struct ferry_session *s, uint64_t len, uint64_t sum);
int target_lend(struct ferry_session *s, bool all);
int target_drop_named(struct ferry_session *s);
int target_pull_start(struct ferry_session *s); /* the workers that pull, over the link that is there now */
int target_puts_ended(struct ferry_session *s); /* joins the workers that land puts; -EPIPE: they do not end */
int target_workers_lost(struct ferry_session *s); /* link_workers_lost(), wherever the workers wait */
void target_await_bye(struct ferry_session *s, enum wire_type again);

/* A run that the peer has named in this message lies within a region; -EPROTO. */
int target_check_run(struct ferry_session *s, const char *message, const struct page_run *run);
/* One RESIDUE message's bits into set; -EPROTO when it names what is not there. */
int residue_recv(struct ferry_session *s, const struct wire_msg *m, struct page_set *set);
/* One POISON message's pages into tgt.poison; -EPROTO as above. session/poison.h has the theory. */
int poison_recv(struct ferry_session *s, const struct wire_msg *m);
/* The source's memory is here but for the residue, and nothing has touched it. */
int poison_install(struct ferry_session *s);

#endif
