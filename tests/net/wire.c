// SPDX-License-Identifier: MIT
/*
 * wire: a cable between two network namespaces that can be made bad while it is in use. It needs no netem: a TUN
 * device at each end, and this program between them, which delays packets, limits them and forgets some.
 *
 *	wire NAMESPACE_A NAMESPACE_B [DEVICE]	DEVICE: its name at both ends, default wire0
 *
 * It says "up" when both devices are there; addresses are the caller's business. Then it obeys its standard input, a
 * command a line, and answers each with a line once it is in force: "ok", what was asked for, or "error: ..." with
 * the cause. It ends at the end of its input, so a script that dies leaves no cable behind.
 *
 *	delay MS		each packet arrives so much later, one way
 *	late PERCENT MS		so many packets, at random, arrive MS later than their turn: behind those that were sent after them
 *	loss PERCENT		so many packets vanish, at random: the same ones for the same seed
 *	seed NUMBER
 *	rate KBYTES [MS]	thousand bytes a second; what would wait longer than MS for its turn vanishes (100)
 *	hole BYTES		longer IP packets vanish: a path whose MTU is smaller than its ends believe
 *	syn COUNT		the next COUNT attempts to connect (TCP SYN) vanish
 *	port NUMBER		packets to that TCP port vanish
 *	dead ADDRESS		packets to that address vanish; up to 8 addresses; "dead" alone: none
 *	cut [MS]		everything vanishes, and nobody is told; for MS milliseconds, or until "heal"
 *	heal			ends a cut
 *	clear			all of the above as at the start
 *	after BYTES COMMAND	COMMAND once so many bytes have been carried from A to B ("ba": from B to A); one at a time
 *	count			"ab PACKETS BYTES DROPPED ba PACKETS BYTES DROPPED", carried and vanished
 *
 * A command holds for both directions, or for one with "ab" or "ba" before it: "ab hole 1000". 0 turns a thing off.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define PACKET_MAX 65536
#define BATCH 64	      /* packets of one direction before the other has its turn */
#define HELD_MAX (256u << 20) /* bytes under way in one direction */
#define DEAD_MAX 8
#define LINE_MAX_BYTES 256
#define FOREVER UINT64_MAX

struct packet {
	struct packet *next;
	uint64_t due_us;
	size_t len;
	uint8_t data[];
};

struct faults {
	uint64_t delay_us, late_us, queue_us, cut_until_us;
	double loss, late, rate; /* fractions; bytes a microsecond */
	unsigned hole, syns, port, ndead;
	struct address {
		int family;
		uint8_t bytes[16];
	} dead[DEAD_MAX];
};

struct direction {
	int from, to;
	struct packet *head, **tail;
	uint64_t held;	      /* bytes under way */
	uint64_t last_due_us; /* of the packet that arrives last */
	uint64_t free_us;     /* when the last packet has been sent at the rate */
	uint64_t packets, bytes, dropped;
	struct faults faults;
};

struct wire {
	struct direction dir[2];
	unsigned short seed[3];
	struct later {
		const struct direction *dir; /* NULL: none */
		uint64_t bytes;
		char command[LINE_MAX_BYTES];
	} later;
	bool quiet; /* what was asked for earlier has its answer */
	char line[LINE_MAX_BYTES];
	size_t used;
};

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static int tun_open(const char *ns, const char *name)
{
	struct ifreq r = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "/var/run/netns/%s", ns);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET)) {
		fprintf(stderr, "wire: the namespace %s cannot be entered: %s\n", ns, strerror(errno));
		exit(1);
	}
	close(fd);
	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &r)) {
		fprintf(stderr, "wire: no TUN device in %s: %s\n", ns, strerror(errno));
		exit(1);
	}
	return fd;
}

/* ---- packets ---- */

struct headers {
	int family;
	const uint8_t *to;  /* address */
	const uint8_t *tcp; /* or NULL */
};

/* Options of IPv6 are not followed: nothing here sends any before TCP. */
static bool headers(struct headers *h, const uint8_t *p, size_t len)
{
	size_t at;

	*h = (struct headers){ 0 };
	if (len >= 20 && p[0] >> 4 == 4) {
		at = (size_t)(p[0] & 15) * 4;
		h->family = AF_INET;
		h->to = p + 16;
		h->tcp = p[9] == IPPROTO_TCP && len >= at + 20 ? p + at : NULL;
	} else if (len >= 40 && p[0] >> 4 == 6) {
		h->family = AF_INET6;
		h->to = p + 24;
		h->tcp = p[6] == IPPROTO_TCP && len >= 60 ? p + 40 : NULL;
	}
	return h->family;
}

static bool is_dead(const struct faults *f, const struct headers *h)
{
	unsigned i;

	for (i = 0; i < f->ndead; i++) {
		if (f->dead[i].family == h->family &&
		    !memcmp(f->dead[i].bytes, h->to, h->family == AF_INET ? 4 : 16))
			return true;
	}
	return false;
}

static bool vanishes(struct wire *w, struct faults *f, const uint8_t *p, size_t len, uint64_t now)
{
	struct headers h;

	if (f->cut_until_us > now || (f->hole && len > f->hole))
		return true;
	if (f->loss > 0 && erand48(w->seed) < f->loss)
		return true;
	if (!headers(&h, p, len))
		return false;
	if (is_dead(f, &h))
		return true;
	if (!h.tcp)
		return false;
	if (f->port && (unsigned)(h.tcp[2] << 8 | h.tcp[3]) == f->port)
		return true;
	if (!f->syns || (h.tcp[13] & 0x12) != 0x02) /* SYN without ACK */
		return false;
	f->syns--;
	return true;
}

/* In the order in which they arrive; those of one time as they were sent. */
static void queue(struct direction *d, struct packet *p)
{
	struct packet **at = d->tail;

	if (d->head && d->last_due_us > p->due_us)
		for (at = &d->head; *at && (*at)->due_us <= p->due_us; at = &(*at)->next)
			;
	p->next = *at;
	*at = p;
	if (!p->next) {
		d->tail = &p->next;
		d->last_due_us = p->due_us;
	}
}

/* Takes a packet over, or forgets it. */
static void enter(struct wire *w, struct direction *d, const uint8_t *data, size_t len, uint64_t now)
{
	struct faults *f = &d->faults;
	uint64_t leaves = now;
	struct packet *p;

	if (f->rate > 0) {
		if (d->free_us > now)
			leaves = d->free_us;
		if (leaves - now > f->queue_us) {
			d->dropped++;
			return;
		}
	}
	if (vanishes(w, f, data, len, now) || d->held + len > HELD_MAX || !(p = malloc(sizeof(*p) + len))) {
		d->dropped++;
		return;
	}
	if (f->rate > 0)
		d->free_us = leaves += (uint64_t)((double)len / f->rate);
	*p = (struct packet){ .due_us = leaves + f->delay_us, .len = len };
	memcpy(p->data, data, len);
	if (f->late > 0 && erand48(w->seed) < f->late)
		p->due_us += f->late_us;
	queue(d, p);
	d->held += len;
}

static void read_some(struct wire *w, struct direction *d)
{
	uint8_t data[PACKET_MAX];
	ssize_t len;
	int i;

	for (i = 0; i < BATCH; i++) {
		len = read(d->from, data, sizeof(data));
		if (len <= 0)
			return;
		enter(w, d, data, (size_t)len, now_us());
	}
}

/* What is due leaves. When the next one is: or FOREVER. A full device at the far end is a packet lost. */
static uint64_t write_due(struct direction *d)
{
	struct packet *p;

	while ((p = d->head) && p->due_us <= now_us()) {
		if (write(d->to, p->data, p->len) == (ssize_t)p->len) {
			d->packets++;
			d->bytes += p->len;
		} else {
			d->dropped++;
		}
		d->head = p->next;
		if (!d->head)
			d->tail = &d->head;
		d->held -= p->len;
		free(p);
	}
	return p ? p->due_us : FOREVER;
}

/* ---- commands ---- */

static void __attribute__((format(printf, 2, 3))) answer(const struct wire *w, const char *fmt, ...)
{
	va_list ap;

	if (w->quiet)
		return;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
}

static int set_dead(struct faults *f, const char *address)
{
	struct address a = { .family = address && strchr(address, ':') ? AF_INET6 : AF_INET };

	if (!address) {
		f->ndead = 0;
		return 0;
	}
	if (f->ndead == DEAD_MAX || inet_pton(a.family, address, a.bytes) != 1)
		return -1;
	f->dead[f->ndead++] = a;
	return 0;
}

/* A number from 0 to most; without one, the default, where there is one (>= 0). */
static int number(double *ret, const char *text, double standard, double most)
{
	char *end;

	*ret = standard;
	if (!text)
		return standard < 0 ? -1 : 0;
	*ret = strtod(text, &end);
	return end == text || *end || !(*ret >= 0 && *ret <= most) ? -1 : 0;
}

static int set(struct direction *d, const char *what, const char *arg, const char *arg2)
{
	struct faults *f = &d->faults;
	double v, q;

	if (!strcmp(what, "dead"))
		return set_dead(f, arg);
	if (!strcmp(what, "clear") && !arg) {
		*f = (struct faults){ 0 };
		return 0;
	}
	if (!strcmp(what, "heal") && !arg) {
		f->cut_until_us = 0;
		return 0;
	}
	if (number(&v, arg, strcmp(what, "cut") ? -1 : 0, 1e9) || number(&q, arg2, 100, 1e6))
		return -1;
	if (!strcmp(what, "rate")) {
		f->rate = v / 1000; /* KBYTES a second are bytes a millisecond */
		f->queue_us = (uint64_t)(q * 1000);
		d->free_us = 0;
		return 0;
	}
	if (!strcmp(what, "late") && v <= 100) {
		f->late = v / 100;
		f->late_us = (uint64_t)(q * 1000);
		return 0;
	}
	if (arg2)
		return -1;
	if (!strcmp(what, "delay"))
		f->delay_us = (uint64_t)(v * 1000);
	else if (!strcmp(what, "loss") && v <= 100)
		f->loss = v / 100;
	else if (!strcmp(what, "hole"))
		f->hole = (unsigned)v;
	else if (!strcmp(what, "syn"))
		f->syns = (unsigned)v;
	else if (!strcmp(what, "port") && v <= 65535)
		f->port = (unsigned)v;
	else if (!strcmp(what, "cut"))
		f->cut_until_us = arg ? now_us() + (uint64_t)(v * 1000) : FOREVER;
	else
		return -1;
	return 0;
}

/* "after BYTES COMMAND"; the rest of the line is the command. */
static void set_later(struct wire *w, const struct direction *d, const char *bytes, const char *rest)
{
	double v;

	if (!rest || !*rest || number(&v, bytes, -1, 1e15)) {
		answer(w, "error: [ab|ba] after BYTES COMMAND");
		return;
	}
	w->later.dir = d;
	w->later.bytes = (uint64_t)v;
	snprintf(w->later.command, sizeof(w->later.command), "%s", rest);
	answer(w, "ok");
}

static void command(struct wire *w, char *line)
{
	const struct direction *a = &w->dir[0], *b = &w->dir[1];
	char *save = NULL, *word[4] = { NULL }, *extra;
	int i, from = 0, to = 1;
	double seed;

	word[0] = strtok_r(line, " ", &save);
	if (word[0] && (!strcmp(word[0], "ab") || !strcmp(word[0], "ba"))) {
		from = to = word[0][0] == 'b';
		word[0] = strtok_r(NULL, " ", &save);
	}
	if (word[0] && !strcmp(word[0], "after")) {
		word[1] = strtok_r(NULL, " ", &save);
		set_later(w, &w->dir[from], word[1], word[1] ? strtok_r(NULL, "", &save) : NULL);
		return;
	}
	for (i = 1; i < 3 && word[i - 1]; i++)
		word[i] = strtok_r(NULL, " ", &save);
	extra = strtok_r(NULL, " ", &save);
	if (!word[0] || extra) {
		answer(w, "error: a command is [ab|ba] WORD [ARGUMENT [ARGUMENT]]");
		return;
	}
	if (!strcmp(word[0], "count")) {
		answer(w, "ab %ju %ju %ju ba %ju %ju %ju", (uintmax_t)a->packets, (uintmax_t)a->bytes,
		       (uintmax_t)a->dropped, (uintmax_t)b->packets, (uintmax_t)b->bytes,
		       (uintmax_t)b->dropped);
		return;
	}
	if (!strcmp(word[0], "seed") && !number(&seed, word[1], -1, 65535)) {
		w->seed[0] = (unsigned short)seed;
		answer(w, "ok");
		return;
	}
	for (i = from; i <= to; i++) {
		if (set(&w->dir[i], word[0], word[1], word[2])) {
			answer(w, "error: not understood: %s %s", word[0], word[1] ? word[1] : "");
			return;
		}
	}
	answer(w, "ok");
}

static void do_later(struct wire *w)
{
	if (!w->later.dir || w->later.dir->bytes < w->later.bytes)
		return;
	w->later.dir = NULL;
	w->quiet = true;
	command(w, w->later.command);
	w->quiet = false;
}

/* false: the end of the input. */
static bool obey(struct wire *w)
{
	ssize_t n = read(STDIN_FILENO, w->line + w->used, sizeof(w->line) - 1 - w->used);
	char *end;

	if (n <= 0)
		return n < 0 && errno == EINTR;
	w->used += (size_t)n;
	w->line[w->used] = 0;
	while ((end = strchr(w->line, '\n'))) {
		*end = 0;
		command(w, w->line);
		w->used -= (size_t)(end + 1 - w->line);
		memmove(w->line, end + 1, w->used + 1);
	}
	return w->used < sizeof(w->line) - 1;
}

int main(int argc, char **argv)
{
	struct wire w = { .seed = { 1, 2, 3 } };
	const char *device = argc > 3 ? argv[3] : "wire0";
	int a, b, i;

	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: wire NAMESPACE_A NAMESPACE_B [DEVICE]\n");
		return 2;
	}
	a = tun_open(argv[1], device);
	b = tun_open(argv[2], device);
	w.dir[0] = (struct direction){ .from = a, .to = b, .tail = &w.dir[0].head };
	w.dir[1] = (struct direction){ .from = b, .to = a, .tail = &w.dir[1].head };
	answer(&w, "up");
	for (;;) {
		struct pollfd p[3] = { { a, POLLIN, 0 }, { b, POLLIN, 0 }, { STDIN_FILENO, POLLIN, 0 } };
		uint64_t next = FOREVER, now;
		struct timespec ts;

		for (i = 0; i < 2; i++) {
			uint64_t due;

			read_some(&w, &w.dir[i]);
			due = write_due(&w.dir[i]);
			next = due < next ? due : next;
		}
		do_later(&w);
		now = now_us();
		next = next == FOREVER ? 0 : next > now ? next - now : 1;
		ts = (struct timespec){ .tv_sec = (time_t)(next / 1000000),
					.tv_nsec = (long)(next % 1000000 * 1000) };
		if (ppoll(p, 3, next ? &ts : NULL, NULL) > 0 && p[2].revents && !obey(&w))
			return 0;
	}
}
