// SPDX-License-Identifier: MIT
/*
 * seeds DIR: writes the first inputs of the fuzzers to DIR/decode, DIR/tcp and so on, one folder per fuzzer.
 * tests/fuzz/run --seeds keeps those that add coverage in tests/fuzz/corpus.
 *
 * The messages are those of real sessions, taken while correct peers play against them. The plays are correct
 * up to each phase, and then have one message out of place.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "seeds.h"
#include "hostile.h"
#include "transport/tcp/tcp_wire.h"

#define STEPS 4u

static const char *top;
static unsigned nseeds;

void seed(const char *fuzzer, const void *a, size_t alen, const void *b, size_t blen)
{
	char path[600];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s/seed-%05u", top, fuzzer, nseeds++);
	f = fopen(path, "w");
	if (!f || fwrite(a, 1, alen, f) != alen || (blen && fwrite(b, 1, blen, f) != blen) || fclose(f)) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		exit(1);
	}
}

/* ---- decode ---- */

static void tap(const void *msg, size_t len, bool from_source, enum ferry_phase phase)
{
	struct wire_hdr h;
	uint8_t head[4] = { 0, !from_source, (uint8_t)phase };

	memcpy(&h, msg, sizeof(h));
	head[3] = (uint8_t)h.seq;
	for (unsigned s = FERRY_PHASE_IDLE; s <= FERRY_PHASE_FAILED; s++)
		if (phase == FERRY_PHASE_IDLE || s == phase) {
			head[2] = (uint8_t)s;
			seed("decode", head, sizeof(head), msg, len < 2000 ? len : 2000);
		}
}

static void decode(void)
{
	static const char *const uris[] = { "tcp:10.0.0.1:7000",
					    "tcp:[fe80::1]:0?bandwidth=10G&latency=5ms",
					    "rdma:host.example:7000?pin=lazy&dev=mlx5_0&gid=3&mtu=4096",
					    "mem:name?latency=10us",
					    "tcp::1?bandwidth=1k",
					    "tcp:[::1]",
					    ":" };
	struct ferry_stream st;

	for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++)
		seed("decode", "\003", 1, uris[i], strlen(uris[i]));
	stream_init(&st);
	for (uint32_t i = 0; i < 3; i++) {
		if (ferry_stream_put(&st, i, i + 1, uris[i], strlen(uris[i])))
			exit(1);
		seed("decode", "\001", 1, st.buf, st.len);
		seed("decode", "\001", 1, st.buf, st.len - 1);
	}
	stream_destroy(&st);
}

/* ---- tcp ---- */

static struct tcp_frame frame(uint16_t type, uint32_t tag, uint16_t nruns, uint32_t npages)
{
	struct tcp_frame f = { .magic = TCP_MAGIC_FRAME, .type = type, .tag = tag, .nruns = nruns };

	for (unsigned i = 0; i < nruns && i < TCP_RUNS_INLINE; i++)
		f.runs[i] = (struct tcp_run){ .region = 0, .npages = npages, .page = i * 7 };
	f.bytes = (uint64_t)nruns * npages * FUZZ_PAGE;
	return f;
}

static void tcp_frames(void)
{
	struct tcp_frame put[4] = { frame(TCP_PUT, 0, 2, 1) };
	struct tcp_frame gets[4] = { frame(TCP_GET, 1, 1, 1), frame(TCP_GET, 2, 2, 5),
				     frame(TCP_FENCE, 9, 0, 0), frame(TCP_END, 0, 0, 0) };
	struct tcp_frame ack = frame(TCP_FENCE_ACK, 1, 0, 0);
	uint8_t big[64 * 260] = { 1 }, cut;
	size_t len = 1;

	memcpy(big + len, put, sizeof(put[0]));
	len += sizeof(put[0]) + 2 * FUZZ_PAGE;
	seed("tcp", big, len, gets + 2, 2 * sizeof(gets[0]));
	for (unsigned i = 0; i < 4; i++) {
		seed("tcp", "\001", 1, gets + i, sizeof(gets[0]));
		for (cut = 0; cut < 240; cut += 60)
			seed("tcp", (uint8_t[]){ 2, cut }, 2, gets + i, sizeof(gets[0]) * (4 - i));
	}
	/* Replies to the requests of user(): twice seven pages in three runs. */
	memset(big, 0, sizeof(big));
	big[0] = 3;
	for (uint32_t t = 0; t < 2; t++) {
		struct tcp_frame reply = frame(TCP_REPLY, 1 - t, 0, 0);

		reply.bytes = 4 * FUZZ_PAGE;
		len = 1;
		memcpy(big + len, &reply, sizeof(reply));
		len += sizeof(reply) + reply.bytes;
		seed("tcp", big, len, &ack, sizeof(ack));
	}
	/* A get of three runs, of which one follows the frame. */
	gets[0] = frame(TCP_GET, 3, 2, 1);
	gets[0].nruns = 3;
	gets[0].bytes = 3 * FUZZ_PAGE;
	memcpy(big, &gets[0], sizeof(gets[0]));
	memcpy(big + sizeof(gets[0]), &(struct tcp_run){ 10, 1, 69 }, sizeof(struct tcp_run));
	seed("tcp", "\002\377", 2, big, sizeof(gets[0]) + sizeof(struct tcp_run));
}

static void tcp_rest(void)
{
	struct tcp_msg m = { .magic = TCP_MAGIC_MSG, .len = 20 };
	struct tcp_answer ok = { .magic = TCP_MAGIC_ANSWER, .version = TCP_WIRE_VERSION },
			  a[3] = { ok, ok, ok };
	struct tcp_preamble p[4] = {
		{ .magic = TCP_MAGIC_PREAMBLE, .version = TCP_WIRE_VERSION, .channels = 1 }
	};
	uint8_t body[20] = { 7 }, buf[1 + sizeof(m)] = { 0 };

	memcpy(buf + 1, &m, sizeof(m));
	seed("tcp", buf, sizeof(buf), body, sizeof(body));
	seed("tcp", buf, sizeof(buf), body, sizeof(body) - 1);
	for (uint32_t code = 0; code < 5; code++) {
		a[2].code = code;
		seed("tcp", "\005", 1, a, sizeof(a));
	}
	seed("tcp", "\005", 1, a, 40);
	for (unsigned i = 1; i < 4; i++) {
		p[i] = p[0];
		p[i].role = i % 3;
	}
	seed("tcp", "\004\000", 2, p, 3 * sizeof(p[0]));
	seed("tcp", "\004\020", 2, p, sizeof(p));
	for (unsigned i = 0; i < 5; i++) {
		struct tcp_preamble q = p[0];

		*(uint32_t *[]){ &q.magic, &q.version, &q.role, &q.index, &q.channels }[i] = 77;
		seed("tcp", "\004\100", 2, &q, sizeof(q));
	}
}

/* ---- plays ---- */

static void play(const char *target, const struct play *p, const struct play_step *s, size_t n)
{
	uint8_t buf[sizeof(*p) + STEPS * sizeof(*s)];

	memcpy(buf, p, sizeof(*p));
	if (n)
		memcpy(buf + sizeof(*p), s, n * sizeof(*s));
	seed(target, buf, sizeof(*p) + n * sizeof(*s), NULL, 0);
	hostile_tap = n ? NULL : tap;
	if (target[0] == 's')
		play_hostile_target(buf, sizeof(*p) + n * sizeof(*s), NULL);
	else
		play_hostile_source(buf, sizeof(*p) + n * sizeof(*s), NULL);
}

static void plays(const char *target, unsigned turns)
{
	static const uint8_t flags[] = { PLAY_HOLD, PLAY_HOLD | PLAY_SHARED, PLAY_SWITCHOVER | PLAY_ARBITER,
					 PLAY_HOLD | PLAY_TWO | PLAY_LIMIT | PLAY_EARLY,
					 PLAY_HOLD | PLAY_RECONNECT };
	static const struct play_step other[] = { { STEP_CANCEL },
						  { STEP_SWITCHOVER },
						  { STEP_KILL },
						  { STEP_CONNECT, .type = 1 },
						  { STEP_CONNECT, .type = 1, .at = 1 },
						  { STEP_PUT, .n = 2, .v = VM_PAGES0 - 1 },
						  { STEP_GET, .n = 5, .v = 1 },
						  { STEP_EXPOSE },
						  { STEP_END } };

	for (size_t f = 0; f < sizeof(flags); f++)
		for (unsigned mode = 1; mode <= 2; mode++)
			for (unsigned turn = 0; turn <= turns; turn++) {
				struct play p = { flags[f], (uint8_t)turn, (uint8_t)mode, 5 };

				play(target, &p, NULL, 0);
				for (unsigned t = 1; f < 2 && t < WIRE_TYPES; t++)
					play(target, &p,
					     (struct play_step[]){ { STEP_SAY, .type = (uint8_t)(t - 1) },
								   { STEP_HEAR } },
					     2);
				for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++)
					play(target, &p,
					     (struct play_step[]){
						     other[i], { STEP_DECENT }, { STEP_DECENT } },
					     3);
			}
}

int main(int argc, char **argv)
{
	static const char *const targets[] = { "decode", "tcp",	     "rdma",	  "source",
					       "target", "exchange", "recording", "etcd" };
	char path[600];

	if (argc != 2) {
		fprintf(stderr, "usage: seeds DIR\n");
		return 2;
	}
	top = argv[1];
	mkdir(top, 0777);
	for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", top, targets[i]);
		mkdir(path, 0777);
	}
	decode();
	tcp_frames();
	tcp_rest();
	seeds_rdma();
	seeds_json();
	plays("source", 12);
	plays("target", 7);
	printf("%u seeds\n", nseeds);
	return 0;
}
