/* SPDX-License-Identifier: MIT */
/*
 * The other machine's side of the story. Source and target each have a parent process; when the migration is
 * over they tell each other what they know, over a TCP connection of their own (meet.h), so that both print the
 * same table.
 *
 * The source connects as soon as the target has answered it (reservation), and each end's death is seen by the
 * other as the end of the connection. Nothing crosses it while the VM moves. Then JSON, a line a message: both
 * say hello (session); the source asks for the target's clock some times, which is only for drawing both on one
 * axis; then the source's report, then the target's. No duration is ever made of two hosts' clocks.
 *
 * The other end may lie, or be none: a line has a length for its turn, is bounded before it is parsed
 * (runtime/arbiter/json_bound.h), and no number of it is taken that no migration has. A report without a recording, which
 * comes only where --record asked for it, takes at most 1 MiB.
 */
#ifndef BENCH_EXCHANGE_H
#define BENCH_EXCHANGE_H

#include <jansson.h>

#include "meet.h"
#include "record.h"
#include "report.h"

/* The largest number that a peer is believed: nanoseconds of 36 years; sums of a few fit 64 bits. */
#define PEER_NUMBER_MAX (UINT64_C(1) << 60)

/*
 * Waits for the other end as long as it lives, tells what r and record have and adds what it tells. Whether
 * it told; r->whole is then set. A sentence on stderr where it did not, but for --report-port 0.
 */
bool peer_exchange(struct meeting *p, struct run_report *r, struct record *record);

/* exchange_report.c: the report as JSON; own: the end that speaks. record NULL: without samples. NULL: no memory.
 */
json_t *peer_report_make(const struct run_report *r, enum vmm_end own, const struct record *record);
/* Adds what the other end reported; 0, or -EPROTO with a sentence in why and r as it was. */
int peer_report_take(struct run_report *r, enum vmm_end other, const json_t *report, char *why, size_t cap);
/* exchange_record.c: events and samples; offset_ns: added to the other's times. */
json_t *peer_record_make(const struct record *rec, enum vmm_end own);
int peer_record_take(struct record *rec, enum vmm_end other, const json_t *o, int64_t offset_ns);

#endif
