/* SPDX-License-Identifier: MIT */
/*
 * Two machines exchange their results. Source and target each have a parent process. When the migration is
 * over the parents exchange reports over their own TCP connection (meet.h), so that both print the same
 * table.
 *
 * The source connects as soon as the target has answered in the reservation. If one end dies, the other sees
 * the end of the connection. Nothing is sent while the VM moves. Then the ends send JSON, one message per
 * line: both send a hello (session); the source queries the target's clock a few times, only to draw both on
 * one time axis; then the source sends its report, then the target. No duration mixes the clocks of two
 * hosts.
 *
 * The peer may lie or be a stranger. So each line has a maximum length, is bounded before it is parsed
 * (runtime/arbiter/json_bound.h), and a number that no migration can have is refused. A report has at most 1
 * MiB, or more with a recording, which is only accepted if --record asked for it.
 */
#ifndef BENCH_EXCHANGE_H
#define BENCH_EXCHANGE_H

#include <jansson.h>

#include "meet.h"
#include "record.h"
#include "report.h"

/* The largest number accepted from a peer: 36 years in ns; the sum of a few fits 64 bits. */
#define PEER_NUMBER_MAX (UINT64_C(1) << 60)

/*
 * Waits for the peer as long as it lives, sends r and record, and adds the peer's report to them. True if the
 * peer has reported; r->whole is then set. Otherwise prints a sentence on stderr, except for --report-port 0.
 */
bool peer_exchange(struct meeting *p, struct run_report *r, struct record *record);

/* exchange_report.c: the report of end own as JSON; record NULL: without samples. NULL: out of memory. */
json_t *peer_report_make(const struct run_report *r, enum vmm_end own, const struct record *record);
/* Adds the peer's report to r: 0, or -EPROTO with a sentence in why and r unchanged. */
int peer_report_take(struct run_report *r, enum vmm_end other, const json_t *report, char *why, size_t cap);
/* exchange_record.c: events and samples; offset_ns is added to the peer's times. */
json_t *peer_record_make(const struct record *rec, enum vmm_end own);
int peer_record_take(struct record *rec, enum vmm_end other, const json_t *o, int64_t offset_ns);

#endif
