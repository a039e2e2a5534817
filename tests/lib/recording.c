// SPDX-License-Identifier: MIT
/*
 * Recordings of migrations over tcp: reading, writing, playing, recording. The bytes are split into frames by
 * the numbers of docs/protocol.md alone, without the library's headers: those may change, but a recording
 * must not.
 */
#include "recording.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "patience.h"
#include "ferry/ferry.h"

#define WAIT_MS (60000 * (int)patience())
#define PREAMBLE 64u
#define ANSWER 16u
#define FRAME_HEAD 8u /* on the control channel */
#define FRAME_LEN 4u
#define MSG_TYPE 8u /* offsets in a frame of the control channel */
#define MSG_LEN 12u
#define MSG_SEQ 16u
#define MSG_BODY 24u
#define DATA_HEAD 64u
#define HELLO 1u
#define HELLO_ACK 2u
#define PING 21u

static const char *const channel_names[] = { "control", "data", "urgent" };

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static unsigned get16(const uint8_t *p)
{
	return p[0] | (unsigned)p[1] << 8;
}

static struct recorded_frame *add(struct recording *r)
{
	r->frame = realloc(r->frame, (r->n + 1) * sizeof(*r->frame));
	cr_assert(r->frame);
	r->frame[r->n] = (struct recorded_frame){ 0 };
	return &r->frame[r->n++];
}

static void append(struct recorded_frame *f, uint8_t byte, bool any, size_t times)
{
	f->bytes = realloc(f->bytes, f->len + times);
	f->any = realloc(f->any, f->len + times);
	cr_assert(f->bytes && f->any);
	memset(f->bytes + f->len, byte, times);
	memset(f->any + f->len, any, times);
	f->len += times;
}

void recording_free(struct recording *r)
{
	for (size_t i = 0; i < r->n; i++) {
		free(r->frame[i].bytes);
		free(r->frame[i].any);
	}
	free(r->frame);
	*r = (struct recording){ 0 };
}

/* ---- text ---- */

static void read_bytes(struct recorded_frame *f, char *line, const char *path, unsigned at)
{
	for (char *save, *word = strtok_r(line, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
		char *end;
		unsigned long byte = strtoul(word, &end, 16), times = 1;
		bool any = *end == '?';

		end += any;
		if (*end == '*')
			times = strtoul(end + 1, &end, 10);
		cr_assert(f && !*end && byte < 256 && times && times <= 4u << 20, "%s:%u: \"%s\" is no byte",
			  path, at, word);
		append(f, (uint8_t)byte, any, times);
	}
}

void recording_read(struct recording *r, const char *path)
{
	FILE *in = fopen(path, "r");
	struct recorded_frame *f = NULL;
	char line[512], name[16], way;
	unsigned at = 0;

	cr_assert(in, "%s: %s", path, strerror(errno));
	*r = (struct recording){ 0 };
	while (fgets(line, sizeof(line), in)) {
		at++;
		if (*line == '#')
			continue;
		if (sscanf(line, "%15s %c", name, &way) != 2 || (way != '<' && way != '>')) {
			read_bytes(f, line, path, at);
			continue;
		}
		f = add(r);
		f->line = at;
		f->from_source = way == '>';
		while (f->channel < RECORDED_CHANNELS && strcmp(channel_names[f->channel], name))
			f->channel++;
		cr_assert_lt(f->channel, RECORDED_CHANNELS, "%s:%u: no channel is called \"%s\"", path, at,
			     name);
	}
	fclose(in);
	cr_assert(r->n, "%s has no frames", path);
}

static void write_bytes(const struct recorded_frame *f, FILE *out)
{
	unsigned words = 0;

	for (size_t i = 0, n; i < f->len; i += n) {
		for (n = 1; i + n < f->len && f->bytes[i + n] == f->bytes[i] && f->any[i + n] == f->any[i];
		     n++)
			;
		n = n < 8 ? 1 : n;
		fprintf(out, "%s%02x%s",
			words % 16 ? " "
			: words	   ? "\n"
				   : "",
			f->bytes[i], f->any[i] ? "?" : "");
		if (n > 1)
			fprintf(out, "*%zu", n);
		words++;
	}
	fputs("\n", out);
}

void recording_write(const struct recording *r, const char *path, const char *about)
{
	bool seen[2][RECORDED_CHANNELS] = { 0 };
	FILE *out = fopen(path, "w");

	cr_assert(out, "%s: %s", path, strerror(errno));
	fprintf(out, "# %s. tests/lib/recording.h says how to read it.\n", about);
	for (size_t i = 0; i < r->n; i++) {
		const struct recorded_frame *f = &r->frame[i];
		const char *message = f->channel == RECORDED_CONTROL && seen[f->from_source][0]
					      ? ferry_message_name(get16(f->bytes + MSG_TYPE))
					      : NULL;

		if (message)
			fprintf(out, "# %s\n", message);
		seen[f->from_source][f->channel] = true;
		fprintf(out, "%s %c\n", channel_names[f->channel], f->from_source ? '>' : '<');
		write_bytes(f, out);
	}
	cr_assert(!fclose(out), "%s: %s", path, strerror(errno));
}

/* ---- sockets ---- */

static void send_all(int fd, const uint8_t *bytes, size_t len)
{
	for (ssize_t n; len; bytes += n, len -= (size_t)n) {
		n = send(fd, bytes, len, MSG_NOSIGNAL);
		cr_assert_gt(n, 0, "the other end has gone: %s", strerror(errno));
	}
}

static void receive_all(int fd, uint8_t *bytes, size_t len, const char *what)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	for (ssize_t n; len; bytes += n, len -= (size_t)n) {
		cr_assert_eq(poll(&p, 1, WAIT_MS), 1, "nothing comes where %s is due", what);
		n = recv(fd, bytes, len, 0);
		cr_assert_gt(n, 0, "the other end hangs up where %s is due", what);
	}
}

int recording_listen(uint16_t *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert(fd >= 0 && !bind(fd, (void *)&a, len) && !listen(fd, 8) &&
		  !getsockname(fd, (void *)&a, &len));
	*port = ntohs(a.sin_port);
	return fd;
}

static int connect_to(uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons(port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert(fd >= 0 && !connect(fd, (void *)&a, sizeof(a)), "port %u: %s", port, strerror(errno));
	return fd;
}

/* Accept the next connection; its preamble says which channel it is. */
static enum recorded_channel accept_one(int listener, int *fd, uint8_t preamble[PREAMBLE])
{
	struct pollfd p = { .fd = listener, .events = POLLIN };
	uint32_t role;

	cr_assert_eq(poll(&p, 1, WAIT_MS), 1, "nobody connects");
	*fd = accept(listener, NULL, NULL);
	cr_assert_geq(*fd, 0);
	receive_all(*fd, preamble, PREAMBLE, "a preamble");
	role = get32(preamble + 8);
	cr_assert_lt(role, RECORDED_CHANNELS);
	return (enum recorded_channel)role;
}

/* ---- playing ---- */

struct player {
	const struct recording *r;
	bool as_source;
	int listener;
	uint16_t port;
	int fd[RECORDED_CHANNELS];
	uint8_t preamble[RECORDED_CHANNELS][PREAMBLE];
	bool begun[RECORDED_CHANNELS]; /* the preamble has been sent or checked */
	uint32_t pings;		       /* sent by the live end; its message numbers are higher by this */
};

/* A later library speaks later versions and offers more features, but still the recorded ones. */
static void check_offer(const struct recorded_frame *f, const uint8_t *got)
{
	const uint8_t *live = got + MSG_BODY, *was = f->bytes + MSG_BODY;

	cr_assert(get16(live + 4) >= get16(was + 4) && get16(live + 6) <= get16(was + 4),
		  "line %u: versions %u to %u; %u was recorded", f->line, get16(live + 6), get16(live + 4),
		  get16(was + 4));
	for (unsigned i = 8; i < 16; i++)
		cr_assert_eq(was[i] & ~live[i], 0, "line %u: a recorded feature is not offered", f->line);
}

/* The live end's bytes against the recorded ones. A greeting of a later library may be longer. */
static void compare(const struct recorded_frame *f, const uint8_t *got, size_t len, uint32_t pings)
{
	const char *name = channel_names[f->channel];
	bool message = f->channel == RECORDED_CONTROL && len > MSG_BODY && f->len != PREAMBLE;
	bool hello = message && get16(got + MSG_TYPE) == HELLO;
	bool longer = message && len > f->len && (hello || get16(got + MSG_TYPE) == HELLO_ACK);

	if (hello)
		check_offer(f, got);
	for (size_t i = 0; i < len && i < f->len; i++) {
		if (longer && (i == FRAME_LEN || i == MSG_LEN)) {
			cr_assert_eq(get32(got + i), len - (i == FRAME_LEN ? FRAME_HEAD : MSG_BODY));
			i += 3;
			continue;
		}
		if (hello && i == MSG_BODY + 4) { /* versions and features */
			i += 11;
			continue;
		}
		if (message && i == MSG_SEQ) {
			cr_assert_eq(get32(got + i), get32(f->bytes + i) + pings,
				     "line %u, %s: another message number", f->line, name);
			i += 3;
			continue;
		}
		cr_assert(f->any[i] || got[i] == f->bytes[i],
			  "line %u, %s: byte %zu of %zu is %02x; %02x was recorded", f->line, name, i, len,
			  got[i], f->bytes[i]);
	}
	if (!longer)
		cr_assert_eq(len, f->len, "line %u, %s: %zu bytes; %zu were recorded", f->line, name, len,
			     f->len);
}

/* Receive a message of the live end that is no PING; returns the length of its frame. */
static size_t receive_message(struct player *p, uint8_t **ret)
{
	uint8_t head[FRAME_HEAD];
	size_t len;

	for (;;) {
		receive_all(p->fd[RECORDED_CONTROL], head, sizeof(head), "a message");
		len = FRAME_HEAD + get32(head + 4);
		cr_assert(len >= MSG_BODY && len < 1u << 20, "a message of %zu bytes", len);
		*ret = malloc(len);
		cr_assert(*ret);
		memcpy(*ret, head, sizeof(head));
		receive_all(p->fd[RECORDED_CONTROL], *ret + FRAME_HEAD, len - FRAME_HEAD,
			    "the rest of a message");
		if (get16(*ret + MSG_TYPE) != PING)
			return len;
		free(*ret);
		p->pings++;
	}
}

static void hear(struct player *p, const struct recorded_frame *f)
{
	uint8_t *got;
	size_t len = f->len;

	while (!p->as_source && p->fd[f->channel] < 0) {
		uint8_t preamble[PREAMBLE];
		int fd;
		enum recorded_channel c = accept_one(p->listener, &fd, preamble);

		p->fd[c] = fd;
		memcpy(p->preamble[c], preamble, PREAMBLE);
	}
	if (!p->as_source && !p->begun[f->channel]) {
		compare(f, p->preamble[f->channel], PREAMBLE, 0);
		p->begun[f->channel] = true;
		return;
	}
	if (f->channel == RECORDED_CONTROL && f->len != ANSWER) {
		len = receive_message(p, &got);
	} else {
		got = malloc(len);
		cr_assert(got);
		receive_all(p->fd[f->channel], got, len, channel_names[f->channel]);
	}
	compare(f, got, len, f->len == ANSWER ? 0 : p->pings);
	free(got);
}

static void play(struct player *p)
{
	for (unsigned c = 0; c < RECORDED_CHANNELS; c++)
		p->fd[c] = -1;
	for (size_t i = 0; i < p->r->n; i++) {
		const struct recorded_frame *f = &p->r->frame[i];

		if (f->from_source != p->as_source) {
			hear(p, f);
			continue;
		}
		if (p->as_source && p->fd[f->channel] < 0)
			p->fd[f->channel] = connect_to(p->port);
		send_all(p->fd[f->channel], f->bytes, f->len);
	}
	for (unsigned c = 0; c < RECORDED_CHANNELS; c++)
		close(p->fd[c]);
}

void recording_play_target(const struct recording *r, int listener)
{
	play(&(struct player){ .r = r, .listener = listener });
}

void recording_play_source(const struct recording *r, uint16_t port)
{
	play(&(struct player){ .r = r, .as_source = true, .port = port });
}

/* ---- recording ---- */

struct stream {
	enum recorded_channel channel;
	bool from_source, answered, ended;
	int in, out;
	uint8_t buf[1 << 20];
	size_t len;
};

static size_t frame_length(const struct stream *s)
{
	size_t len, runs;
	uint64_t bytes;

	if (!s->from_source && !s->answered)
		return ANSWER;
	if (s->channel == RECORDED_CONTROL)
		return s->len < FRAME_HEAD ? SIZE_MAX : FRAME_HEAD + get32(s->buf + 4);
	if (s->len < DATA_HEAD)
		return SIZE_MAX;
	runs = get16(s->buf + 6);
	memcpy(&bytes, s->buf + 16, sizeof(bytes));
	len = DATA_HEAD + (runs > 2 ? (runs - 2) * 16 : 0);
	return get16(s->buf + 4) == 1 || get16(s->buf + 4) == 3 ? len + le64toh(bytes) : len; /* PUT, REPLY */
}

/* Mark random and measured bytes, which may differ. */
static void mark_any(struct recorded_frame *f)
{
	struct {
		unsigned type, from, len;
	} any[] = {
		{ 1, 16, 16 }, { 2, 40, 16 }, { 14, 0, 64 }, { 17, 0, 64 }, { 18, 0, 64 }
	}; /* HELLO, HELLO_ACK, RUNNING .. */

	if (f->channel != RECORDED_CONTROL || f->len == ANSWER)
		return;
	cr_assert_neq(get16(f->bytes + MSG_TYPE), PING, "this machine is too slow to record");
	for (unsigned i = 0; i < sizeof(any) / sizeof(any[0]); i++)
		if (get16(f->bytes + MSG_TYPE) == any[i].type)
			memset(f->any + MSG_BODY + any[i].from, 1, any[i].len);
}

static void note(struct recording *r, const struct stream *s, size_t len)
{
	struct recorded_frame *f = add(r);

	f->channel = s->channel;
	f->from_source = s->from_source;
	append(f, 0, false, len);
	memcpy(f->bytes, s->buf, len);
}

static void pass_on(struct recorder *r, struct stream *s)
{
	ssize_t n = recv(s->in, s->buf + s->len, sizeof(s->buf) - s->len, 0);
	size_t len;

	if (n <= 0) {
		s->ended = true;
		shutdown(s->out, SHUT_WR);
		return;
	}
	for (size_t at = s->len; at < s->len + (size_t)n;) {
		ssize_t sent = send(s->out, s->buf + at, s->len + (size_t)n - at, MSG_NOSIGNAL);

		if (sent <= 0)
			break;
		at += (size_t)sent;
	}
	s->len += (size_t)n;
	while ((len = frame_length(s)) <= s->len && s->len) {
		note(&r->recording, s, len);
		mark_any(&r->recording.frame[r->recording.n - 1]);
		s->answered = true;
		s->len -= len;
		memmove(s->buf, s->buf + len, s->len);
	}
}

static void *recorder_main(void *arg)
{
	struct recorder *r = arg;
	struct stream *s = calloc(2 * RECORDED_CHANNELS, sizeof(*s));
	struct pollfd p[2 * RECORDED_CHANNELS];
	unsigned left = 2 * RECORDED_CHANNELS;

	cr_assert(s);
	for (unsigned i = 0; i < RECORDED_CHANNELS; i++) {
		struct stream *up = &s[2 * i], *down = up + 1;

		up->channel = down->channel = accept_one(r->listener, &up->in, up->buf);
		up->from_source = true;
		down->in = up->out = connect_to(r->port);
		down->out = up->in;
		note(&r->recording, up, PREAMBLE);
		memset(r->recording.frame[r->recording.n - 1].any + 24, 1, 24); /* session and attempt */
		send_all(up->out, up->buf, PREAMBLE);
	}
	while (left) {
		for (unsigned i = 0; i < 2 * RECORDED_CHANNELS; i++)
			p[i] = (struct pollfd){ .fd = s[i].ended ? -1 : s[i].in, .events = POLLIN };
		cr_assert_gt(poll(p, 2 * RECORDED_CHANNELS, WAIT_MS), 0);
		for (unsigned i = 0; i < 2 * RECORDED_CHANNELS; i++) {
			if (p[i].revents)
				pass_on(r, &s[i]);
			left -= p[i].revents && s[i].ended;
		}
	}
	for (unsigned i = 0; i < 2 * RECORDED_CHANNELS; i++)
		close(s[i].in);
	free(s);
	return NULL;
}

void recorder_start(struct recorder *r, int listener, uint16_t port)
{
	*r = (struct recorder){ .listener = listener, .port = port };
	cr_assert(!pthread_create(&r->thread, NULL, recorder_main, r));
}

void recorder_join(struct recorder *r)
{
	pthread_join(r->thread, NULL);
}
