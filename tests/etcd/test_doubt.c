// SPDX-License-Identifier: MIT
/* Whole migrations that come into doubt, settled by a real etcd; and one that is away, frozen or no etcd just then. */
#include <ferry/arbiter_etcd.h>
#include <stdio.h>

#include "doubt.h"
#include "etcd_server.h"

static struct etcd_server server; /* each test is a process of its own */
static const char *endpoints = server.url;
static uint64_t timeout_us = 60000000;

static int ask_etcd(const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	struct ferry_arbiter_etcd a = { .size = sizeof(a), .endpoints = endpoints, .timeout_us = timeout_us };

	return ferry_arbiter_etcd_ask(&a, session, want, is, NULL, 0);
}

static void start(void)
{
	etcd_start(&server);
}

static void stop(void)
{
	etcd_stop(&server);
}

TestSuite(settled_by_etcd, .init = start, .fini = stop);

#define BY_ETCD(...) DOUBT_TEST(settled_by_etcd, ask_etcd, __VA_ARGS__)
DOUBT_ROWS(BY_ETCD)

/* Nobody runs meanwhile; asked again when it is back, with what each end may claim, both hear the same. */
static void later(bool by_target, enum ferry_owner source_claims)
{
	enum ferry_owner s = FERRY_OWNER_NONE, t = FERRY_OWNER_NONE;
	struct doubt d;
	struct rig *r = &d.rig;

	timeout_us = 200000;
	doubt_init(&d, RIG_TCP_ANON, DOUBT_TENTATIVE, "cut-before", by_target ? "PREPARED" : "COMMIT",
		   by_target, ask_etcd);
	rig_run(r);
	cr_assert(r->sres.outcome == FERRY_OUTCOME_IN_DOUBT && r->tres.outcome == FERRY_OUTCOME_IN_DOUBT,
		  "%s; %s", r->sres.detail, r->tres.detail);
	cr_assert(!world_source_runs(&r->world) && !world_target_runs(&r->world));
	cr_assert(r->sres.claim == source_claims && r->tres.claim == FERRY_OWNER_TARGET);
	etcd_freeze(&server, false);
	endpoints = server.url;
	timeout_us = 60000000;
	cr_assert_eq(ask_etcd(r->tres.session, r->tres.claim, &t), 0);
	cr_assert_eq(ask_etcd(r->sres.session, r->sres.claim, &s), 0);
	cr_assert(s == t && (s == FERRY_OWNER_SOURCE || s == FERRY_OWNER_TARGET));
	rig_free(r);
}

Test(settled_by_etcd, later_when_it_was_frozen)
{
	etcd_freeze(&server, true);
	later(true, FERRY_OWNER_SOURCE);
}

Test(settled_by_etcd, later_when_it_was_frozen_at_a_lost_commit)
{
	etcd_freeze(&server, true);
	later(false, FERRY_OWNER_TARGET);
}

Test(settled_by_etcd, later_when_it_was_away)
{
	static char nobody[64];

	etcd_nobody(nobody);
	endpoints = nobody;
	later(true, FERRY_OWNER_SOURCE);
}

Test(settled_by_etcd, later_when_another_had_its_port)
{
	static char pretender[64];

	etcd_pretend(pretender, "HTTP/1.0 200 OK\r\n\r\n<html>It works!</html>");
	endpoints = pretender;
	later(false, FERRY_OWNER_TARGET);
}
