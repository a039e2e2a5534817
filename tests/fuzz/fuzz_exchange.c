// SPDX-License-Identifier: MIT
/*
 * The reports that two machines exchange, JSON line by line. Byte 0: bit 0, which end is honest; bit 1,
 * whether it records. The rest is everything that the other end sends.
 *
 * Whatever the other end sends, the honest end must reach a verdict, its table and its JSON must be complete,
 * and its recording must be readable and drawable.
 */
#include <jansson.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mutate_json.h"
#include "told.h"
#include "bench/cli/exchange.h"
#include "bench/picture/picture.h"

#define BUFFER (1 << 20)

static struct options asked(enum vmm_end own)
{
	char program[] = "rdma-migrate", source[] = "source", target[] = "target", to[] = "--to";
	static char uri[] = "tcp:h:1"; /* the options point to it */
	char *argv[] = { program, own == VMM_END_TARGET ? target : source, to, uri, NULL };
	struct options o;

	promise(!options_parse(&o, own == VMM_END_TARGET ? 2 : 4, argv), "the options are refused");
	return o;
}

/* The report of an end that has migrated; if it records, the record has a sample and an event. */
static void honest(struct run_report *r, const struct options *o, struct record *rec, enum vmm_end own)
{
	struct ferry_event ev = { .type = FERRY_EVENT_PHASE, .phase = FERRY_PHASE_PRECOPY };

	memset(r, 0, sizeof(*r));
	r->o = o;
	observer_init(&r->observer, -1, own == VMM_END_TARGET ? VMM_VCPUS_MAX : 1, own == VMM_END_SOURCE);
	r->end[own].begun = r->end[own].have_result = true;
	r->end[own].result =
		(struct ferry_result){ .outcome = FERRY_OUTCOME_MIGRATED, .owner = FERRY_OWNER_TARGET };
	if (!rec)
		return;
	record_event(rec, own, &ev, "pre-copy", 6000000);
	rec->area[own]->sample[0] = (struct record_sample){ .time_ns = 5000000, .stamps = 1, .running = 1 };
	atomic_store(&rec->area[own]->n, 1);
}

static void draw(const char *recording, size_t len)
{
	int fd = memfd_create("recording", MFD_CLOEXEC);
	struct timelines all = { 0 };
	char name[64], *script = NULL;
	size_t script_len;
	FILE *out;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	promise(fd >= 0 && write(fd, recording, len) == (ssize_t)len, "no memfd");
	promise(!timelines_load(&all, name) && all.n == 1, "its own recording cannot be read: %.*s",
		(int)(len < 4000 ? len : 4000), recording);
	out = open_memstream(&script, &script_len);
	picture_run(out, &all.v[0]);
	fclose(out);
	promise(script_len < 100000 + 200 * (all.v[0].end[0].n + all.v[0].end[1].n), "a picture of %zu bytes",
		script_len);
	free(script);
	timelines_free(&all);
	close(fd);
}

static void tells(struct run_report *r, const struct record *rec)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	json_t *o;

	judge(r);
	promise(r->sentence[0], "a verdict without a sentence");
	report_table(out, r);
	fputc('\n', out);
	fclose(out);
	told_check(text);
	free(text);
	out = open_memstream(&text, &len);
	report_json(out, r);
	fclose(out);
	o = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	promise(o, "its JSON is none: %s", text);
	json_decref(o);
	free(text);
	if (!rec)
		return;
	out = open_memstream(&text, &len);
	record_write(out, rec, r);
	fclose(out);
	draw(text, len);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct run_report r;
	struct fuzz_before before = fuzz_before();
	enum vmm_end own = size && data[0] & 1 ? VMM_END_TARGET : VMM_END_SOURCE;
	struct record *rec = size && data[0] & 2 ? record_new(1000) : NULL;
	struct options o = asked(own);
	struct meeting m;
	struct told told;
	int pair[2], bytes = BUFFER;

	honest(&r, &o, rec, own);
	promise(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), "no socket pair");
	for (int i = 0; i < 2; i++)
		setsockopt(pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes));
	if (size > 1)
		promise(send(pair[1], data + 1, size - 1, MSG_NOSIGNAL) == (ssize_t)size - 1,
			"the input does not fit the socket");
	shutdown(pair[1], SHUT_WR);
	meet_init(&m, own);
	m.fd = pair[0];
	m.agreed = m.wanted = true;
	told_begin(&told);
	if (!peer_exchange(&m, &r, rec))
		promise(!r.whole, "a report was refused and taken");
	tells(&r, rec);
	told_end(&told);
	meet_end(&m);
	close(pair[1]);
	record_free(rec);
	fuzz_left(&before);
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	return mutate_json(data, size, max, 1, seed);
}
