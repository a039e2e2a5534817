/* SPDX-License-Identifier: MIT */
#ifndef FERRY_RESIDUE_H
#define FERRY_RESIDUE_H

#include "session.h"

/* The residue on the wire: RESIDUE messages, one a stretch of pages that has any bit set. */
int residue_send(struct ferry_session *s, const struct page_set *set);
/* Target: one RESIDUE message's bits into set; -EPROTO when it names what is not there. */
int residue_recv(struct ferry_session *s, const struct wire_msg *m, struct page_set *set);

/* source/precopy.c and source/switchover.c share these. */
int source_expose(struct ferry_session *s, enum xport_access access);
void source_unexpose(struct ferry_session *s);
int source_send_state(struct ferry_session *s);
int source_fetch(struct ferry_session *s, struct page_set *set, unsigned flags, uint64_t *fresh);
/* No more puts on this link: from here on its data channels carry the target's gets. */
int source_reverse(struct ferry_session *s);
/* The crew that answers the target's gets: one thread a data channel; the first looks after faults too. */
int serve_start(struct ferry_session *s);

#endif
