/* SPDX-License-Identifier: MIT */
/*
 * The command line: one table, one row per option. A row says which commands take it, how it reads and what
 * the error message and the help say it takes.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "arbiter.h"
#include "meet.h"
#include "options_int.h"
#include "util.h"
#include "bench/vmm/vmm.h"

static const char *const vmms[] = { "own", "qemu", NULL };
static const char *const kinds[] = { "anon", "memfd", "hugetlb", "hugetlb-memfd", NULL };
static const char *const patterns[] = { "random", "sequential", "zipf", NULL };
static const char *const modes[] = { "auto", "stop-and-copy", "post-copy", NULL };
static const char *const commit_ats[] = { "default", "complete", "switchover", NULL };
static const char *const on_off[] = { "on", "off", NULL };
static const char *const thps[] = { "auto", "on", "off", NULL };
static const char *const hold_actions[] = { "fallback", "commit", NULL };
static const char *const landings[] = { "auto", "mapping", "kernel", NULL };
static const char *const trackings[] = { "auto", "log", "ring", NULL };
static const char *const floors[] = { "once", "each", "off", NULL };
static const char *const commands[] = { "run",	"source", "target",  "floor", "sweep",
					"plot", "doctor", "version", "help" };

_Static_assert(sizeof(kinds) / sizeof(*kinds) == KIND_COUNT + 1, "one name per memory kind");
_Static_assert((int)KIND_HUGETLB == VMM_HUGETLB && (int)KIND_HUGETLB_MEMFD == VMM_HUGETLB_MEMFD &&
		       (int)KIND_MEMFD == VMM_MEMFD,
	       "the kinds are in the VMM's order");
_Static_assert(sizeof(vmms) / sizeof(*vmms) == VM_COUNT + 1, "one name per VMM");
_Static_assert(sizeof(patterns) / sizeof(*patterns) == VMM_ZIPF + 2, "one name per pattern");
_Static_assert(FERRY_MODE_POSTCOPY == 2 && FERRY_COMMIT_AT_SWITCHOVER == 2 && FERRY_HOLD_COMMIT == 1,
	       "the choices are in the order of ferry.h");
_Static_assert(FERRY_LANDING_WAY_KERNEL == 2 && sizeof(landings) / sizeof(*landings) == 4,
	       "in that order, too");
_Static_assert(VMM_TRACKING_RING == 2 && sizeof(trackings) / sizeof(*trackings) == 4, "in the VMM's order");
_Static_assert(sizeof(commands) / sizeof(*commands) == CMD_COUNT, "one name per command");

#define HOUR 3600000000ull
#define LOW_MEMORY (16u << 20) /* the guest keeps its code and tables there */
#define WHOLE (2u << 20)

const struct option_row option_rows[] = {
	{ "uri", V_TEXT, RUN | FLOOR, AT(uri), "tcp:HOST:PORT or rdma:HOST:PORT",
	  "where the two ends connect, port 0 takes a free port; tcp:127.0.0.1:0" },
	{ "to", V_TEXT, SOURCE, AT(to), "tcp:HOST:PORT or rdma:HOST:PORT", "the target to migrate to" },
	{ "listen", V_TEXT, TARGET, AT(listen), "tcp:HOST:PORT or rdma:HOST:PORT",
	  "where the target waits for the source" },
	{ "vmm", V_CHOICE, SOURCE | TARGET, AT(vmm), "own or qemu",
	  "whose VM moves: a guest of the bench's own VMM, or that of a stock QEMU, the same at both ends (docs/qemu.md); own",
	  .choices = vmms },
	{ "qmp", V_TEXT, SOURCE | TARGET | DOCTOR | QEMU, AT(qmp), "the path of a QEMU's QMP socket",
	  "the monitor of the QEMU that runs the VM, at the target of one that waits (-S -incoming defer)",
	  .word = "SOCKET" },
	{ "hold-net", V_MANY, TARGET | QEMU, AT(hold_net),
	  "the id of a netdev of the QEMU, 16 of them at most",
	  "hold back what leaves by this netdev during the tentative run, may be repeated; none, and then no tentative run of a VM that has a network",
	  .word = "ID" },
	{ "hold-disk", V_MANY, TARGET | QEMU, AT(hold_disk),
	  "the node-name of a disk of the QEMU, and the path of a new file, 16 of them at most",
	  "hold back what is written to this disk during the tentative run, in that file; after the commit it is merged into the disk; may be repeated; none",
	  .word = "NODE=PATH" },
	{ "memory", V_SIZE, GUEST | FLOOR | OWN, AT(memory),
	  "a size from 32M to 256G in whole 2M, such as 512M or 2G", "the guest's RAM; 1G", VMM_MEMORY_MIN,
	  VMM_MEMORY_MAX },
	{ "memory-kind", V_CHOICE, GUEST | FLOOR | OWN, AT(kind), "anon, memfd, hugetlb or hugetlb-memfd",
	  "the kind of the RAM, hugetlb: huge pages of 2 MiB (not for the floor's buffers); anon",
	  .choices = kinds },
	{ "populate", V_COUNT, GUEST | OWN, AT(populate), "a percentage from 0 to 100",
	  "percent of RAM that has unique, non-zero content at the start; 100", 0, 100 },
	{ "prealloc", V_CHOICE, RUN | TARGET | SWEEP | OWN, AT(prealloc), "on or off",
	  "on: the target allocates all of its RAM before pre-copy, off: as pages arrive; on",
	  .choices = on_off },
	{ "landing", V_CHOICE, RUN | TARGET | SWEEP, AT(landing), "auto, mapping or kernel",
	  "how page data gets into the target's memory: received in the page's mapping, or in a buffer from which the kernel copies it, auto: what measures faster; auto",
	  .choices = landings },
	{ "dirty-tracking", V_CHOICE, GUEST | OWN, AT(dirty_tracking), "auto, log or ring",
	  "how KVM records the pages that the guest writes: in one log of all RAM, or in a ring for each vCPU, auto: the log; not for host threads; auto",
	  .choices = trackings },
	{ "thp", V_CHOICE, GUEST | OWN, AT(thp), "auto, on or off",
	  "transparent huge pages for the RAM, restored at the target after the migration, auto: on for anon, off for memfd (the floor's buffers have none); auto",
	  .choices = thps },
	{ "working-set", V_SIZE, ONE_GUEST | FLOOR | OWN, AT(working_set),
	  "a size such as 256M, at most --memory less 16M",
	  "the part of RAM that the guest writes to; floor: that --pull touches; 256M, or a quarter of a smaller RAM",
	  4096, VMM_MEMORY_MAX },
	{ "dirty-rate", V_COUNT, ONE_GUEST | FLOOR | OWN, AT(dirty_rate),
	  "pages per second, 0 for an idle guest",
	  "pages that the guest, or --pull, writes per second; 50000", 0, 1000000000 },
	{ "pattern", V_CHOICE, GUEST | OWN, AT(pattern), "random, sequential or zipf",
	  "which page of the working set the guest writes next, zipf: the page of rank k about 1/k as often as the first; random",
	  .choices = patterns },
	{ "rhythm", V_DURATION, GUEST | OWN, AT(rhythm_us), "a duration from 1ms such as 200ms",
	  "until the switchover the guest writes and rests in turn, each for this time; it never rests", 1000,
	  HOUR },
	{ "vcpus", V_COUNT, GUEST | OWN, AT(vcpus), "a number from 1 to 16", "virtual CPUs; 1", 1,
	  VMM_VCPUS_MAX },
	{ "seed", V_COUNT, GUEST | OWN, AT(seed), "a number", "seed of what the guest writes; random", 0,
	  UINT64_MAX },
	{ "mode", V_CHOICE, ONE_GUEST, AT(mode), "auto, stop-and-copy or post-copy",
	  "how the migration finishes; auto", .choices = modes },
	{ "commit-at", V_CHOICE, GUEST, AT(commit_at), "complete, switchover or default",
	  "when the source can no longer resume the VM; complete", .choices = commit_ats },
	{ "downtime", V_DURATION, GUEST, AT(downtime_us), "a duration such as 300ms, 2s or 500us",
	  "the downtime to aim for; 300ms", 1, HOUR },
	{ "max-rounds", V_COUNT, GUEST, AT(max_rounds), "a number from 1 to 1000",
	  "bound on the rounds of pre-copy; 30", 1, 1000 },
	{ "precopy-limit", V_DURATION, GUEST, AT(precopy_limit_us), "a duration such as 30s",
	  "bound on the time in pre-copy; none", 1, HOUR },
	{ "channels", V_COUNT, GUEST | FLOOR, AT(channels), "a number from 1 to 16", "data connections; 1", 1,
	  16 },
	{ "bandwidth", V_SIZE, GUEST, AT(bandwidth), "bytes per second such as 100M, 0 for no limit",
	  "limit on page data, bytes per second; none", 0, 1ull << 50 },
	{ "switchover-limit", V_DURATION, GUEST, AT(switchover_limit_us), "a duration such as 30s",
	  "longest downtime before the VM resumes at the source; 30s", 1, HOUR },
	{ "hold-limit", V_DURATION, GUEST, AT(hold_limit_us), "a duration such as 2s, 0 for no limit",
	  "longest tentative run, with the output held back; none", 0, HOUR },
	{ "hold-action", V_CHOICE, GUEST, AT(hold_action), "fallback or commit",
	  "what to do at the hold limit; fallback", .choices = hold_actions },
	{ "poll", V_DURATION, GUEST, AT(poll_us), "a duration from 1us to 10ms",
	  "how long to poll after a fault before sleeping; 1ms", 1, 10000 },
	{ "reconnect", V_DURATION, ENDS, AT(reconnect_us), "a duration such as 5s, 0 for never",
	  "how long to wait for a lost link; 5s, or 1s if --kill breaks something for good", 0, HOUR },
	{ "timeout", V_DURATION, ENDS, AT(timeout_us), "a duration of at least 10ms such as 3s",
	  "the link is lost if nothing was heard for this long; 3s", 10000, HOUR },
	{ "kill", V_KILL, ENDS, AT(kill),
	  "source@PHASE, target@PHASE, link@PHASE or link@PHASE:MS, PHASE one of pre-migration, reservation, "
	  "pre-copy, stop-and-copy, post-copy, commitment and activation; or a message such as COMMIT for PHASE",
	  "on entering PHASE, or at MESSAGE, kill that process by SIGKILL, or cut the link (for MS milliseconds)" },
	{ "arbiter", V_TEXT, ENDS, AT(arbiter), ARBITER_TAKES,
	  "the arbiter that settles an ending in doubt, the same at both ends; none" },
	{ "run-on", V_DURATION, ENDS | SWEEP | OWN, AT(run_on_us), "a duration such as 200ms",
	  "how long the guest runs at its owner before the proof; 200ms", 1000, HOUR },
	{ "repeat", V_COUNT, RUN | FLOOR | SWEEP, AT(repeat), "a number from 1 to 100000",
	  "number of runs; 1", 1, 100000 },
	{ "floor", V_CHOICE, RUN | SWEEP, AT(floor), "once, each or off",
	  "when to measure the floor of the machine; once", .choices = floors },
	{ "pull", V_COUNT, FLOOR, AT(pull), "a number of pages, at most those of --working-set",
	  "also pull so many missing pages, as post-copy does, scattered over --working-set, while a thread writes it at --dirty-rate; none",
	  1, VMM_MEMORY_MAX / 4096 },
	{ "json", V_TEXT, ENDS | FLOOR | SWEEP | DOCTOR, AT(json), "a file name, - for standard output",
	  "append one JSON object per run, each on a line", .word = "FILE" },
	{ "report-port", V_COUNT, SOURCE | TARGET, AT(report_port),
	  "a port from 0 to 65535, 0 for none, at the source 0 only",
	  "port at the target for exchanging the results, 0 for no exchange; a free port, which the target tells the source",
	  0, 65535 },
	{ "record", V_TEXT, ENDS | SWEEP, AT(record), "a file name",
	  "record the migration for rdma-migrate plot (docs/recording.md)", .word = "FILE" },
	{ "sample", V_DURATION, ENDS | SWEEP, AT(sample_us), "a duration from 100us to 1s",
	  "time between two samples of --record; 1ms", 100, 1000000 },
	{ "mode", V_LIST, SWEEP, AT(modes), "names with commas, such as stop-and-copy,post-copy",
	  "the modes to try; stop-and-copy,post-copy" },
	{ "dirty-rate", V_LIST, SWEEP, AT(rates), "numbers with commas, such as 0,50000",
	  "the dirty rates to try; 0,50000,200000" },
	{ "working-set", V_LIST, SWEEP, AT(working_sets), "sizes with commas, such as 64M,256M",
	  "the working sets to try; as for run" },
	{ "uri", V_LIST, SWEEP, AT(uris), "URIs with commas", "the transports to try; tcp:127.0.0.1:0" },
	{ "out", V_TEXT, PLOT | SWEEP, AT(out), "a file name that ends in .svg, .png or .html",
	  "also -o: the picture, or the page with all pictures and figures; sweep: sweep.html",
	  .word = "FILE" },
	{ "quiet", V_FLAG, ENDS | FLOOR | SWEEP, AT(quiet), "no value", "no progress line" },
};

const size_t option_nrows = sizeof(option_rows) / sizeof(*option_rows);

const char *command_name(enum command c)
{
	return commands[c];
}

const char *vmm_name(uint64_t vmm)
{
	return vmms[vmm];
}

const char *kind_name(uint64_t kind)
{
	return kinds[kind];
}

const char *pattern_name(uint64_t pattern)
{
	return patterns[pattern];
}

const char *commit_at_name(uint64_t commit_at)
{
	return commit_ats[commit_at];
}

const char *kill_text(char buf[64], const struct kill_drill *k)
{
	static const char *const who[] = { "", "source", "target", "link" };

	buf[0] = 0;
	if (k->who != KILL_NOBODY)
		snprintf(buf, 64, "%s@%s", who[k->who], k->message ? k->message : ferry_phase_name(k->phase));
	if (k->heal_ms)
		snprintf(buf + strlen(buf), 64 - strlen(buf), ":%llu", (unsigned long long)k->heal_ms);
	return buf;
}

/* "precopy" is as good as "pre-copy". */
static bool same_phase(const char *text, size_t len, const char *name)
{
	size_t i = 0;

	for (; *name; name++) {
		if (i < len && text[i] == *name)
			i++;
		else if (*name != '-')
			return false;
	}
	return i == len;
}

static int parse_kill(const char *text, struct kill_drill *ret)
{
	static const char *const who[] = { "source@", "target@", "link@" };
	struct kill_drill k = { .who = KILL_NOBODY };
	const char *colon;
	size_t len;

	for (unsigned i = 0; i < 3 && k.who == KILL_NOBODY; i++) {
		if (strncmp(text, who[i], strlen(who[i])))
			continue;
		k.who = KILL_SOURCE + i;
		text += strlen(who[i]);
	}
	if (k.who == KILL_NOBODY)
		return -EINVAL;
	colon = strchr(text, ':');
	len = colon ? (size_t)(colon - text) : strlen(text);
	if (colon && (k.who != KILL_LINK || parse_count(colon + 1, &k.heal_ms) || !k.heal_ms))
		return -EINVAL;
	if (k.heal_ms > HOUR / 1000)
		return -EINVAL;
	for (enum ferry_phase p = FERRY_PHASE_PRE_MIGRATION; p <= FERRY_PHASE_ACTIVATION; p++) {
		if (!same_phase(text, len, ferry_phase_name(p)))
			continue;
		k.phase = p;
		*ret = k;
		return 0;
	}
	for (unsigned i = 1; (k.message = ferry_message_name(i)); i++) {
		if (strlen(k.message) != len || strncmp(text, k.message, len))
			continue;
		k.phase = FERRY_PHASE_IDLE;
		*ret = k;
		return 0;
	}
	return -EINVAL;
}

static int parse_choice(const struct option_row *row, const char *text, uint64_t *ret)
{
	for (uint64_t i = 0; row->choices[i]; i++) {
		if (strcmp(row->choices[i], text))
			continue;
		*ret = i;
		return 0;
	}
	return -EINVAL;
}

static int complain(const struct option_row *row, const char *value)
{
	fprintf(stderr, "rdma-migrate: --%s takes %s", row->name, row->takes);
	if (value)
		fprintf(stderr, ", not \"%s\"", value);
	fprintf(stderr, ".\n");
	return -EINVAL;
}

bool list_element(const char *list, unsigned i, char *buf, size_t cap)
{
	size_t len;

	for (; i && list; i--) {
		list = strchr(list, ',');
		list = list ? list + 1 : NULL;
	}
	len = list ? strcspn(list, ",") : 0;
	if (!list || len >= cap)
		return false;
	memcpy(buf, list, len);
	buf[len] = 0;
	return true;
}

/* Each element must be one that run takes. */
static int parse_list(const struct option_row *row, const char *text, const char **ret)
{
	char element[256];
	unsigned n = 1;

	for (const char *p = text; *p; p++)
		n += *p == ',';
	for (unsigned i = 0; i < n; i++) {
		struct options scratch = { .command = CMD_RUN };

		if (!list_element(text, i, element, sizeof(element)))
			return complain(row, text);
		if (options_set(&scratch, row->name, element))
			return -EINVAL;
	}
	*ret = text;
	return 0;
}

/* One more of an option that may be repeated; the array ends with NULL. */
static int parse_many(const struct option_row *row, const char *text, const char **at)
{
	unsigned n = 0;

	while (at[n])
		n++;
	if (n == HOLDS || !*text)
		return complain(row, text);
	at[n] = text;
	return 0;
}

static int parse_value(const struct option_row *row, const char *text, struct options *o)
{
	void *at = (char *)o + row->at;
	uint64_t v = 0;
	int err = 0;

	switch (row->value) {
	case V_FLAG:
		*(bool *)at = true;
		return 0;
	case V_TEXT:
		*(const char **)at = text;
		return *text ? 0 : complain(row, text);
	case V_LIST:
		return parse_list(row, text, at);
	case V_MANY:
		return parse_many(row, text, at);
	case V_KILL:
		return parse_kill(text, at) ? complain(row, text) : 0;
	case V_CHOICE:
		err = parse_choice(row, text, at);
		return err ? complain(row, text) : 0;
	case V_SIZE:
		err = parse_size(text, &v);
		break;
	case V_DURATION:
		err = parse_duration(text, &v);
		break;
	case V_COUNT:
		err = parse_count(text, &v);
		break;
	}
	if (err || v < row->min || v > row->max || (row->at == AT(memory) && v % WHOLE))
		return complain(row, text);
	*(uint64_t *)at = v;
	return 0;
}

/* The command's own row of that name, or another command's. */
static const struct option_row *find_row(const char *name, size_t len, enum command c)
{
	const struct option_row *found = NULL;

	for (size_t i = 0; i < option_nrows; i++) {
		const struct option_row *row = &option_rows[i];

		if (strlen(row->name) != len || strncmp(row->name, name, len))
			continue;
		if (row->commands & (1u << c))
			return row;
		found = row;
	}
	return found;
}

int options_set(struct options *o, const char *name, const char *text)
{
	const struct option_row *row = find_row(name, strlen(name), CMD_RUN);

	return row ? parse_value(row, text, o) : -EINVAL;
}

/* One "--name value", "--name=value" or "--flag"; advances *i past its arguments. */
static int parse_one(struct options *o, int argc, char **argv, int *i)
{
	const char *arg = argv[*i], *value = NULL, *eq;
	const struct option_row *row;
	size_t len;

	if (!strcmp(arg, "-o"))
		arg = "--out";
	if (strncmp(arg, "--", 2)) {
		fprintf(stderr,
			"rdma-migrate: \"%s\" is not an option; options begin with --, see rdma-migrate help.\n",
			arg);
		return -EINVAL;
	}
	arg += 2;
	eq = strchr(arg, '=');
	len = eq ? (size_t)(eq - arg) : strlen(arg);
	row = find_row(arg, len, o->command);
	if (!row) {
		fprintf(stderr, "rdma-migrate: there is no option --%.*s; see rdma-migrate help.\n", (int)len,
			arg);
		return -EINVAL;
	}
	if (!(row->commands & (1u << o->command))) {
		fprintf(stderr, "rdma-migrate: %s does not take --%s; see rdma-migrate help.\n",
			command_name(o->command), row->name);
		return -EINVAL;
	}
	if (row->value == V_FLAG && eq)
		return complain(row, eq + 1);
	if (row->value != V_FLAG) {
		value = eq ? eq + 1 : *i + 1 < argc ? argv[++*i] : NULL;
		if (!value)
			return complain(row, NULL);
	}
	if (row->at == AT(reconnect_us))
		o->reconnect_set = true;
	if (row->at == AT(report_port))
		o->report_port_set = true;
	if (row->commands & OWN && !o->own_only)
		o->own_only = row->name;
	if (row->commands & QEMU && !o->qemu_only)
		o->qemu_only = row->name;
	return parse_value(row, value, o);
}

static int check_uri(const char *option, const char *uri)
{
	if (!strncmp(uri, "tcp:", 4) || !strncmp(uri, "rdma:", 5))
		return 0;
	fprintf(stderr, "rdma-migrate: --%s takes tcp:HOST:PORT or rdma:HOST:PORT, not \"%s\".\n", option,
		uri);
	return -EINVAL;
}

static int check_report_port(const struct options *o)
{
	char host[256];
	uint16_t port;

	if (!o->report_port)
		return 0;
	if (o->command == CMD_SOURCE) {
		fprintf(stderr,
			"rdma-migrate: source takes --report-port 0 only, because the target chooses the port; give --report-port %llu "
			"to rdma-migrate target.\n",
			(unsigned long long)o->report_port);
		return -EINVAL;
	}
	if (meet_split(o->listen, host, &port) || port != o->report_port)
		return 0;
	fprintf(stderr,
		"rdma-migrate: --report-port %u is the port of --listen; give another port, or leave the option out for a free one.\n",
		port);
	return -EINVAL;
}

static int check_pull(const struct options *o)
{
	if (o->pull > o->working_set / 4096) {
		fprintf(stderr,
			"rdma-migrate: --pull takes at most the %llu pages of --working-set, not %llu.\n",
			(unsigned long long)o->working_set / 4096, (unsigned long long)o->pull);
		return -EINVAL;
	}
	if (!o->pull || !strncmp(o->uri, "tcp:", 4))
		return 0;
	fprintf(stderr, "rdma-migrate: --pull is measured over --uri tcp:HOST:PORT only, not \"%s\".\n",
		o->uri);
	return -EINVAL;
}

/* Checks that involve several options. */
int options_check(struct options *o)
{
	if (o->command == CMD_SOURCE && !o->to) {
		fprintf(stderr, "rdma-migrate: source needs --to tcp:HOST:PORT, where a target listens.\n");
		return -EINVAL;
	}
	if (check_vmm(o))
		return -EINVAL;
	if (arbiter_check(o->arbiter))
		return -EINVAL;
	if (o->thp == THP_ON && o->kind >= KIND_HUGETLB) {
		fprintf(stderr,
			"rdma-migrate: --thp on is for --memory-kind anon or memfd: %s has huge pages already.\n",
			kind_name(o->kind));
		return -EINVAL;
	}
	if (o->thp == THP_AUTO)
		o->thp = o->kind == KIND_ANON ? THP_ON : THP_OFF;
	if (!o->working_set)
		o->working_set = o->memory - LOW_MEMORY < (256 << 20) ? o->memory / 4 : 256 << 20;
	if (o->working_set > o->memory - LOW_MEMORY) {
		fprintf(stderr,
			"rdma-migrate: --working-set takes at most --memory less 16M, %lluM here, not %lluM.\n",
			(unsigned long long)(o->memory - LOW_MEMORY) >> 20,
			(unsigned long long)o->working_set >> 20);
		return -EINVAL;
	}
	if ((o->command == CMD_SOURCE && o->kill.who == KILL_TARGET) ||
	    (o->command == CMD_TARGET &&
	     (o->kill.who == KILL_SOURCE || (o->kill.who == KILL_LINK && !o->kill.message)))) {
		fprintf(stderr,
			"rdma-migrate: --kill at the %s cannot reach the other end: give it to rdma-migrate %s.\n",
			command_name(o->command), o->command == CMD_SOURCE ? "target" : "source");
		return -EINVAL;
	}
	if (check_report_port(o) || check_pull(o))
		return -EINVAL;
	if (o->command == CMD_SOURCE)
		return check_uri("to", o->to);
	return o->command == CMD_TARGET ? check_uri("listen", o->listen) : check_uri("uri", o->uri);
}

static int find_command(const char *name, enum command *ret)
{
	const char *dashed = strncmp(name, "--", 2) ? NULL : name + 2; /* --help, --version */

	for (enum command c = 0; c < CMD_COUNT; c++) {
		if (strcmp(name, commands[c]) &&
		    !(dashed && c >= CMD_VERSION && !strcmp(dashed, commands[c])))
			continue;
		*ret = c;
		return 0;
	}
	fprintf(stderr,
		"rdma-migrate: there is no command \"%s\"; the commands are run, source, target, floor, sweep, plot, doctor, "
		"version and help.\n",
		name);
	return -EINVAL;
}

int options_parse(struct options *ret, int argc, char **argv)
{
	struct timespec ts;
	struct options o = {
		.about = CMD_HELP,
		.uri = "tcp:127.0.0.1:0",
		.listen = "tcp:127.0.0.1:0",
		.memory = 1 << 30,
		.populate = 100,
		.dirty_rate = 50000,
		.vcpus = 1,
		.run_on_us = 200000,
		.sample_us = 1000,
		.repeat = 1,
	};
	bool named;
	int err;

	clock_gettime(CLOCK_REALTIME, &ts);
	o.seed = ((uint64_t)ts.tv_nsec ^ (uint64_t)ts.tv_sec << 20 ^ (uint64_t)getpid()) & 0xffffffff;
	if (argc < 2) {
		options_help(stderr, CMD_HELP);
		return -EINVAL;
	}
	err = find_command(argv[1], &o.command);
	named = !err && argc == 3 && o.command == CMD_HELP && strncmp(argv[2], "--", 2); /* help COMMAND */
	if (named || (!err && argc == 3 && !strcmp(argv[2], "--help"))) {
		if (named)
			err = find_command(argv[2], &o.command);
		o.about = o.command;
		o.command = CMD_HELP;
		argc = 2;
	}
	for (int i = 2; i < argc && !err; i++) {
		if (o.command == CMD_PLOT && argv[i][0] != '-') {
			argv[2 + o.nfiles++] = argv[i]; /* in front, one after the other */
			continue;
		}
		if (o.command == CMD_TARGET && !strcmp(argv[i], "--")) {
			o.qemu = argv + i + 1;
			break;
		}
		err = parse_one(&o, argc, argv, &i);
	}
	o.files = argv + 2;
	if (!err && o.command < CMD_VERSION)
		err = o.command == CMD_PLOT || o.command == CMD_DOCTOR ? 0 : options_check(&o);
	if (!err)
		*ret = o;
	return err;
}
