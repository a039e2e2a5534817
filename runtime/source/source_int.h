/* SPDX-License-Identifier: MIT */
/* What the files of the source share. */
#ifndef FERRY_SOURCE_INT_H
#define FERRY_SOURCE_INT_H

#include "source.h"
#include "runtime/session/session.h"

#define SENT_CHUNK 64u /* pages that share a bit of src.sent */

void source_unexpose(struct ferry_session *s);
int source_send_state(struct ferry_session *s);
int source_fetch(struct ferry_session *s, struct page_set *set, unsigned flags, uint64_t *fresh);
/* No more puts on this link: from here on its data channels carry the target's gets. */
int source_reverse(struct ferry_session *s);
/* Exposes memory to the target and starts the workers that answer its gets: one a data channel; the first serves the faults too. */
int source_serve(struct ferry_session *s);

/* Until when the VM may stand still; DEADLINE_NONE: it runs. */
uint64_t source_downtime_until(const struct ferry_session *s);
/* 0, or -ETIME once it has: "and ..." in the sentence says what was waited for. */
int source_stood_still(struct ferry_session *s, const char *why);
/* Main, between two of many messages: 0, or why no more is sent: a cancel, a lost link, or the VM has stood still for too long. */
int source_may_send(struct ferry_session *s);

/* The residue, or more of it: RESIDUE messages, one a stretch of pages that has any bit set. */
int residue_send(struct ferry_session *s, const struct page_set *set);

#endif
