// SPDX-License-Identifier: MIT
/* Reads a recorded trace of rounds for the policy. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trace.h"
#include "runtime/arbiter/json_bound.h"

#define NUMBER_MAX (INT64_C(1) << 50) /* bytes of a round, microseconds: sums of all rounds fit 64 bits */

static const char *const verdicts[] = { "another round", "stop-and-copy", "post-copy", "gave up" };
_Static_assert(sizeof(verdicts) / sizeof(*verdicts) == POLICY_GIVE_UP + 1, "a name a verdict");

const char *verdict_name(enum policy_verdict v)
{
	return verdicts[v];
}

static int number(const json_t *o, const char *name, uint64_t none, uint64_t *ret)
{
	const json_t *v = json_object_get(o, name);

	*ret = none;
	if (!v)
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > NUMBER_MAX)
		return -EINVAL;
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

static int text(const json_t *o, const char *name, char *buf, size_t cap)
{
	const char *v = json_string_value(json_object_get(o, name));

	snprintf(buf, cap, "%s", v ? v : "");
	return !v || strlen(v) < cap ? 0 : -E2BIG;
}

static bool flag(const json_t *o, const char *name, bool none)
{
	const json_t *v = json_object_get(o, name);

	return v ? json_is_true(v) : none;
}

static int read_rounds(struct trace *t, const json_t *list)
{
	size_t i;
	json_t *o;

	if (!json_array_size(list) || json_array_size(list) > TRACE_ROUNDS)
		return -EINVAL;
	json_array_foreach(list, i, o)
	{
		struct ferry_round *r = &t->rounds[t->nrounds];

		*r = (struct ferry_round){ .round = t->nrounds++ };
		if (number(o, "pages_sent", 0, &r->pages_sent) ||
		    number(o, "pages_zero", 0, &r->pages_zero) ||
		    number(o, "bytes", r->pages_sent * 4096, &r->bytes) ||
		    number(o, "duration_us", 0, &r->duration_us) ||
		    number(o, "pages_dirty", 0, &r->pages_dirty))
			return -EINVAL;
	}
	return 0;
}

static int read_mode(enum ferry_mode *ret, const json_t *o)
{
	const char *name = json_string_value(json_object_get(o, "mode"));

	for (int m = FERRY_MODE_AUTO; m <= FERRY_MODE_POSTCOPY; m++) {
		if (name && strcmp(name, ferry_mode_name((enum ferry_mode)m)))
			continue;
		*ret = (enum ferry_mode)m;
		return 0;
	}
	return -EINVAL;
}

static int read_expected(struct trace *t, const json_t *o)
{
	const char *name = json_string_value(json_object_get(o, "verdict"));
	uint64_t rounds;

	if (!name)
		return 0;
	if (number(o, "after_rounds", 0, &rounds) || !rounds || rounds > t->nrounds)
		return -EINVAL;
	t->after_rounds = (uint32_t)rounds;
	for (int v = POLICY_AGAIN; v <= POLICY_GIVE_UP; v++) {
		if (strcmp(name, verdicts[v]))
			continue;
		t->verdict = (enum policy_verdict)v;
		t->expects = true;
		return 0;
	}
	return -EINVAL;
}

/* Options that the trace lacks have the library's defaults. */
static int read_asked(struct trace *t, const json_t *o)
{
	struct policy_limits *l = &t->limits;
	uint64_t max_rounds;

	*l = (struct policy_limits){ .page_size = 4096 };
	l->postcopy_ok = flag(o, "postcopy_ok", true);
	l->forced = flag(o, "forced", false);
	if (read_mode(&l->mode, o) || number(o, "downtime_aim_us", 0, &l->downtime_us) ||
	    number(o, "max_rounds", 0, &max_rounds) ||
	    number(o, "precopy_limit_us", 0, &l->precopy_limit_us) || max_rounds > TRACE_ROUNDS)
		return -EINVAL;
	l->max_rounds = max_rounds ? (uint32_t)max_rounds : 30;
	if (!l->downtime_us)
		l->downtime_us = 300000;
	return 0;
}

static int read_object(struct trace *t, const json_t *o)
{
	if (text(o, "name", t->name, sizeof(t->name)) || text(o, "origin", t->origin, sizeof(t->origin)) ||
	    text(o, "command", t->command, sizeof(t->command)) || text(o, "why", t->why, sizeof(t->why)))
		return -E2BIG;
	if (read_asked(t, o) || number(o, "fixed_us", 1200, &t->fixed_us) ||
	    number(o, "rtt_us", 0, &t->rtt_us) || number(o, "downtime_us", 0, &t->downtime_us))
		return -EINVAL;
	return read_rounds(t, json_object_get(o, "round_list")) || read_expected(t, o) ? -EINVAL : 0;
}

/* Reads the whole file, if it is no larger than a trace can be. */
static json_t *load(const char *file, char *why, size_t cap)
{
	static const struct json_bound bound = { .bytes = 1u << 20, .memory = 16u << 20 };
	FILE *in = fopen(file, "re");
	char *text = in ? malloc(bound.bytes + 1) : NULL, what[200] = "";
	size_t len = text ? fread(text, 1, bound.bytes + 1, in) : 0;
	json_t *o = NULL;

	if (!in || !text || ferror(in))
		snprintf(what, sizeof(what), "%s", strerror(in && !text ? ENOMEM : errno));
	else
		o = json_load_bounded(text, len, &bound, what, sizeof(what));
	if (!o)
		snprintf(why, cap, "%s: %s", file, what);
	if (in)
		fclose(in);
	free(text);
	return o;
}

int trace_read(struct trace *t, const char *file, char *why, size_t cap)
{
	json_t *o = load(file, why, cap);
	int err;

	memset(t, 0, sizeof(*t));
	if (!o)
		return -EINVAL;
	err = json_is_object(o) ? read_object(t, o) : -EINVAL;
	if (err)
		snprintf(why, cap,
			 "%s is not a trace: it needs mode, round_list and, if it has a verdict, an after_rounds within its rounds "
			 "(docs/policy.md)",
			 file);
	json_decref(o);
	return err;
}

void trace_ask(const struct trace *t, uint32_t n, struct policy_result *ret)
{
	struct policy_input in = {
		.history = t->rounds, .n = n, .fixed_us = t->fixed_us, .rtt_us = t->rtt_us
	};
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < n; i++) {
		in.precopy_us += t->rounds[i].duration_us;
		bytes += t->rounds[i].bytes;
	}
	if (in.precopy_us)
		in.last_throughput = (uint64_t)((unsigned __int128)bytes * 1000000 / in.precopy_us);
	policy_decide(&t->limits, &in, ret);
}

void trace_replay(const struct trace *t, struct replay *ret)
{
	uint64_t low = UINT64_MAX;

	memset(ret, 0, sizeof(*ret));
	for (uint32_t n = 1; n <= t->nrounds && ret->result.verdict == POLICY_AGAIN; n++) {
		uint64_t dirty = t->rounds[n - 1].pages_dirty;

		trace_ask(t, n, &ret->result);
		ret->rounds = n;
		ret->since_low++;
		if (dirty < low - low / 10) {
			low = dirty;
			ret->since_low = 0;
		}
	}
}
