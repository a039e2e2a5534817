/* SPDX-License-Identifier: MIT */
/* Shared by the files of the source. */
#ifndef FERRY_SOURCE_INT_H
#define FERRY_SOURCE_INT_H

#include "source.h"
#include "runtime/session/session.h"

#define SENT_CHUNK 64u /* pages per bit of src.sent */

void source_unexpose(struct ferry_session *s);
int source_send_state(struct ferry_session *s);
int source_fetch(struct ferry_session *s, struct page_set *set, unsigned flags, uint64_t *fresh);
/* Ends the puts on this link: from here on its data channels carry the target's gets. */
int source_reverse(struct ferry_session *s);
/* Exposes memory to the target and starts the workers that answer its gets, one per data channel. */
int source_serve(struct ferry_session *s);

/* The time at which the VM has been paused for too long; DEADLINE_NONE while it runs. */
uint64_t source_downtime_until(const struct ferry_session *s);
/* Returns -ETIME after that time, else 0. why ends the sentence "the VM has stood still for N ms and ...". */
int source_stood_still(struct ferry_session *s, const char *why);
/* Main calls it between messages. 0, or why it must stop: a cancel, a lost link, the downtime's limit. */
int source_may_send(struct ferry_session *s);

/* Sends set as RESIDUE messages, one for each stretch of pages that has any bit set. */
int residue_send(struct ferry_session *s, const struct page_set *set);

#endif
