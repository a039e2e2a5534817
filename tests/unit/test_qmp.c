// SPDX-License-Identifier: MIT
/*
 * The client of QEMU's monitor against a server that is late, cut off, garbled, out of order or without end: each
 * call ends by its deadline with one sentence, and what belongs to another command is never taken for an answer.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "bench/qemu/qmp.h"

#define LONG UINT64_C(200000000) /* nothing here takes so long */
#define SHORT UINT64_C(200000)	 /* what is waited for never comes */
#define GREETING                                                                                               \
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, \"package\": \"\"}, " \
	"\"capabilities\": [\"oob\"]}}\r\n"

struct fake;
typedef void (*script_fn)(struct fake *f);

struct fake {
	char dir[40], path[60];
	int listener, fd;
	script_fn script;
	pthread_t thread;
	bool started;
	struct qmp q;
};

static const char *const keep[] = { "STOP", "MIGRATION", NULL };

/* ---- the server ---- */

/* False: the client has left. */
static bool say(struct fake *f, const char *text)
{
	size_t len = strlen(text);

	while (len) {
		ssize_t n = send(f->fd, text, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		text += n;
		len -= (size_t)n;
	}
	return true;
}

/* False: the client has left. Not by stdio, whose lock would keep a test that fails from ending. */
static bool next_line(struct fake *f, char *line, size_t cap)
{
	size_t n = 0;

	while (n + 1 < cap && recv(f->fd, line + n, 1, 0) == 1)
		if (line[n++] == '\n')
			break;
	line[n] = 0;
	return n;
}

/* The id of the next command, which must be name; 0: the client has left. */
static unsigned hear(struct fake *f, const char *name)
{
	char line[4096], *id;

	if (!next_line(f, line, sizeof(line)))
		return 0;
	id = strstr(line, "\"id\":");
	cr_assert(strstr(line, name) && id, "%s came where %s was due", line, name);
	return (unsigned)atoi(id + 5);
}

static void answer(struct fake *f, unsigned id, const char *rest)
{
	char line[4096];

	snprintf(line, sizeof(line), "{%s, \"id\": %u}\r\n", rest, id);
	say(f, line);
}

static void negotiate(struct fake *f)
{
	say(f, GREETING);
	answer(f, hear(f, "qmp_capabilities"), "\"return\": {}");
}

static void *serve(void *arg)
{
	struct fake *f = arg;

	f->fd = accept(f->listener, NULL, NULL);
	if (f->fd < 0)
		return NULL;
	f->script(f);
	shutdown(f->fd, SHUT_RDWR);
	return NULL;
}

static void start(struct fake *f, script_fn script)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	*f = (struct fake){ .dir = "/tmp/ferry-qmp.XXXXXX", .fd = -1, .script = script };
	signal(SIGPIPE, SIG_IGN);
	cr_assert(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/qmp", f->dir);
	memcpy(a.sun_path, f->path, sizeof(f->path));
	f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert(!bind(f->listener, (struct sockaddr *)&a, sizeof(a)) && !listen(f->listener, 1));
	f->started = script && !pthread_create(&f->thread, NULL, serve, f);
}

static void opened(struct fake *f, script_fn script)
{
	start(f, script);
	cr_assert_eq(qmp_open(&f->q, f->path, keep, false, LONG), 0, "%s", f->q.why);
}

static void end(struct fake *f)
{
	qmp_close(&f->q);
	if (f->started)
		pthread_join(f->thread, NULL);
	if (f->fd >= 0)
		close(f->fd);
	close(f->listener);
	unlink(f->path);
	rmdir(f->dir);
}

static void says(const struct fake *f, const char *part)
{
	cr_assert(strstr(f->q.why, part), "\"%s\" does not say \"%s\"", f->q.why, part);
	for (const char *c = f->q.why; *c; c++)
		cr_assert((unsigned char)*c >= ' ', "the sentence has a control character");
}

/* The connection is of no use any more, and says so at once. */
static void is_lost(struct fake *f)
{
	cr_assert_eq(f->q.fd, -1);
	cr_assert_eq(qmp_call(&f->q, "cont", json_pack("{s:b}", "a", 1), LONG, NULL), -EPIPE);
	says(f, "is lost");
}

static int call(struct fake *f, const char *command, uint64_t timeout_us)
{
	return qmp_call(&f->q, command, NULL, timeout_us, NULL);
}

static void stays_until_left(struct fake *f)
{
	char line[4096];

	while (next_line(f, line, sizeof(line)))
		;
}

/* ---- a decent server ---- */

static void decent(struct fake *f)
{
	unsigned id;

	negotiate(f);
	id = hear(f, "query-status");
	say(f,
	    "{\"event\": \"RTC_CHANGE\", \"data\": {}}\n{\"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n");
	answer(f, id, "\"return\": {\"status\": \"running\"}");
	say(f, "{\"event\": \"STOP\"}\n{\"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}\n");
	answer(f, hear(f, "\"arguments\":{\"uri\":\"unix:a\"}"),
	       "\"error\": {\"class\": \"GenericError\", \"desc\": \"no \\u001b[2J such \\u009bhost\"}");
	answer(f, hear(f, "cont"), "\"return\": {}");
}

Test(qmp, commands_get_their_replies_and_events_wait_by_name)
{
	struct qmp_event e;
	json_t *status = NULL;
	struct fake f;

	opened(&f, decent);
	cr_assert(f.q.major == 10 && !f.q.minor && f.q.micro == 2);
	cr_assert_eq(f.q.pid, getpid());
	cr_assert_eq(qmp_call(&f.q, "query-status", NULL, LONG, &status), 0, "%s", f.q.why);
	cr_assert_str_eq(json_string_value(json_object_get(status, "status")), "running");
	json_decref(status);
	cr_assert_eq(qmp_next(&f.q, "STOP", clock_us() + LONG, &e), 0, "%s", f.q.why);
	cr_assert_null(e.data);
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(qmp_next(&f.q, "MIGRATION", clock_us() + LONG, &e), 0, "%s", f.q.why);
		cr_assert_str_eq(json_string_value(json_object_get(e.data, "status")),
				 i ? "active" : "setup");
		json_decref(e.data);
	}
	cr_assert_eq(qmp_call(&f.q, "migrate", json_pack("{s:s}", "uri", "unix:a"), LONG, NULL), -EREMOTEIO);
	says(&f, "QEMU refuses migrate: no ?[2J such ??host (GenericError)");
	cr_assert_str_eq(f.q.class, "GenericError");
	cr_assert_eq(call(&f, "cont", LONG), 0, "%s", f.q.why);
	end(&f);
}

/* What is given arrives with its command. */
static void takes_descriptor(struct fake *f)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} c;
	char text[400];
	struct iovec v = { text, sizeof(text) - 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };
	ssize_t n;
	int fd;

	negotiate(f);
	n = recvmsg(f->fd, &m, 0);
	cr_assert_gt(n, 0);
	text[n] = 0;
	cr_assert(strstr(text, "\"getfd\"") && strstr(text, "\"fdname\":\"pipe\""), "%s", text);
	cr_assert(CMSG_FIRSTHDR(&m) && CMSG_FIRSTHDR(&m)->cmsg_type == SCM_RIGHTS);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	cr_assert_eq(write(fd, "x", 1), 1);
	close(fd);
	answer(f, 2, "\"return\": {}");
}

Test(qmp, a_descriptor_is_handed_over)
{
	struct fake f;
	int pipes[2];
	char c;

	cr_assert_eq(pipe(pipes), 0);
	opened(&f, takes_descriptor);
	cr_assert_eq(qmp_give(&f.q, "pipe", pipes[1], LONG), 0, "%s", f.q.why);
	close(pipes[1]);
	cr_assert_eq(read(pipes[0], &c, 1), 1);
	cr_assert_eq(read(pipes[0], &c, 1), 0);
	close(pipes[0]);
	end(&f);
}

/* ---- late ---- */

static void late(struct fake *f)
{
	unsigned stop, status;

	negotiate(f);
	stop = hear(f, "stop");
	status = hear(f, "query-status");
	answer(f, stop, "\"return\": {\"late\": 1}");
	answer(f, status, "\"return\": {\"late\": 0}");
	stop = hear(f, "stop");
	hear(f, "quit");
	answer(f, stop, "\"return\": {}");
	say(f, "{\"event\": \"STOP\"}\n");
	stays_until_left(f);
}

Test(qmp, a_reply_after_its_deadline_is_not_taken_for_the_next)
{
	struct qmp_event e;
	json_t *o = NULL;
	struct fake f;

	opened(&f, late);
	cr_assert_eq(call(&f, "stop", SHORT), -ETIMEDOUT);
	says(&f, "QEMU has not answered stop within 200 ms");
	cr_assert_eq(qmp_call(&f.q, "query-status", NULL, LONG, &o), 0, "%s", f.q.why);
	cr_assert_eq(json_integer_value(json_object_get(o, "late")), 0);
	json_decref(o);
	cr_assert_eq(call(&f, "stop", SHORT), -ETIMEDOUT);
	cr_assert_eq(call(&f, "quit", SHORT), -ETIMEDOUT);
	cr_assert_eq(qmp_next(&f.q, "STOP", clock_us() + LONG, &e), 0, "%s", f.q.why);
	cr_assert_eq(qmp_next(&f.q, "STOP", clock_us() + SHORT, &e), -ETIMEDOUT);
	says(&f, "has not sent the event STOP");
	end(&f);
}

static void mute(struct fake *f)
{
	stays_until_left(f);
}

Test(qmp, a_monitor_that_serves_another_client_is_named)
{
	struct fake f;

	start(&f, mute);
	cr_assert_eq(qmp_open(&f.q, f.path, keep, false, SHORT), -ETIMEDOUT);
	says(&f, "give QEMU a second -qmp");
	is_lost(&f);
	end(&f);
}

Test(qmp, a_monitor_with_a_queue_of_clients_is_named)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct fake f;
	int fd[8];

	start(&f, NULL);
	memcpy(a.sun_path, f.path, sizeof(f.path));
	for (int i = 0; i < 8; i++) {
		fd[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (connect(fd[i], (struct sockaddr *)&a, sizeof(a)))
			cr_assert_eq(errno, EAGAIN);
	}
	cr_assert_eq(qmp_open(&f.q, f.path, keep, false, SHORT), -EBUSY);
	says(&f, "other clients wait there already");
	for (int i = 0; i < 8; i++)
		close(fd[i]);
	end(&f);
}

Test(qmp, who_is_not_there_is_waited_for_only_if_that_is_wanted)
{
	struct fake f;

	start(&f, NULL);
	close(f.listener);
	cr_assert_eq(qmp_open(&f.q, f.path, keep, false, LONG), -ECONNREFUSED);
	says(&f, "is QEMU running with -qmp");
	qmp_close(&f.q);
	unlink(f.path);
	cr_assert_eq(qmp_open(&f.q, f.path, keep, false, LONG), -ENOENT);
	qmp_close(&f.q);
	cr_assert_eq(qmp_open(&f.q, f.path, keep, true, SHORT), -ENOENT);
	qmp_close(&f.q);
	cr_assert_eq(qmp_open(&f.q,
			      "/very/"
			      "long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/"
			      "long/long/long/long/long/path",
			      keep, false, LONG),
		     -EINVAL);
	qmp_close(&f.q);
	rmdir(f.dir);
}

static void takes_nothing(struct fake *f)
{
	struct pollfd p = { .events = 0 };

	negotiate(f);
	p.fd = f->fd;
	while (poll(&p, 1, -1) < 0) /* until the client leaves */
		;
}

Test(qmp, a_server_that_reads_nothing_ends_the_call)
{
	char *big = malloc(400001);
	struct fake f;

	memset(big, 'x', 400000);
	big[400000] = 0;
	opened(&f, takes_nothing);
	cr_assert_eq(qmp_call(&f.q, "add", json_pack("{s:s}", "text", big), SHORT, NULL), -ETIMEDOUT);
	says(&f, "has taken only a part of add");
	is_lost(&f);
	free(big);
	end(&f);
}

/* ---- cut off ---- */

static const char *cut_greeting;

static void cuts(struct fake *f)
{
	say(f, cut_greeting);
}

Test(qmp, a_connection_that_is_closed_ends_the_call)
{
	static const char *const greetings[] = { "", "{\"QMP\": {\"vers", GREETING,
						 GREETING "{\"return\": {}, \"id\"" };

	for (size_t i = 0; i < sizeof(greetings) / sizeof(greetings[0]); i++) {
		struct fake f;

		cut_greeting = greetings[i];
		start(&f, cuts);
		cr_assert_eq(qmp_open(&f.q, f.path, keep, false, LONG), -EPIPE);
		says(&f, f.path);
		is_lost(&f);
		end(&f);
	}
}

/* ---- garbage ---- */

static const char *garbage;

static void garbles(struct fake *f)
{
	negotiate(f);
	hear(f, "cont");
	say(f, garbage);
	stays_until_left(f);
}

/* The command has id 2. */
Test(qmp, nonsense_is_no_answer)
{
	static const struct {
		const char *text, *says;
	} row[] = {
		{ "}\n", "what is not QMP" },
		{ "\x1b[2J\n", "what is not QMP" },
		{ "[1, 2]\n", "no object" },
		{ "{\"return\": {}}\n", "another command's id" },
		{ "{\"return\": {}, \"id\": 1}\n", "another command's id" },
		{ "{\"return\": {}, \"id\": 3}\n", "another command's id" },
		{ "{\"return\": {}, \"id\": 0}\n", "another command's id" },
		{ "{\"return\": {}, \"id\": -2}\n", "another command's id" },
		{ "{\"return\": {}, \"id\": \"2\"}\n", "another command's id" },
		{ "{\"return\": {}, \"id\": 2.0}\n", "another command's id" },
		{ "{\"id\": 2}\n", "neither a result nor an error" },
		{ "{\"id\": 2, \"error\": {}}\n", "neither a result nor an error" },
		{ "{\"id\": 2, \"error\": 7}\n", "neither a result nor an error" },
		{ "{\"id\": 2, \"error\": {\"class\": \"A\", \"desc\": \"b\"}, \"return\": {}}\n",
		  "neither a result nor an error" },
		{ "{\"error\": {\"class\": \"A\", \"desc\": \"a\\u0007b\"}}\n",
		  "belongs to no command: a?b" },
		{ "{\"id\": 2, \"id\": 2, \"return\": {}}\n", "what is not QMP" },
		{ "{\"event\": 7}\n", "an event without a name" },
		{ "{\"event\": \"STOP\", \"data\": []}\n", "data that is no object" },
		{ "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n", "nested" },
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		struct fake f;

		garbage = row[i].text;
		opened(&f, garbles);
		cr_assert_eq(call(&f, "cont", LONG), -EPROTO, "row %zu", i);
		says(&f, row[i].says);
		is_lost(&f);
		end(&f);
	}
}

Test(qmp, who_greets_as_no_qemu_does_is_none)
{
	static const char *const greetings[] = {
		"{}\n",
		"{\"QMP\": {\"version\": {\"qemu\": {\"major\": 10}}}}\n",
		"220 smtp ready\n",
		"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": -1}}}}\n",
	};

	for (size_t i = 0; i < sizeof(greetings) / sizeof(greetings[0]); i++) {
		struct fake f;

		cut_greeting = greetings[i];
		start(&f, cuts);
		cr_assert_eq(qmp_open(&f.q, f.path, keep, false, LONG), -EPROTO);
		is_lost(&f);
		end(&f);
	}
}

/* ---- without end ---- */

static void megabytes(struct fake *f)
{
	char *x = malloc((1u << 20) + 1);

	negotiate(f);
	hear(f, "cont");
	memset(x, ' ' + 1, 1u << 20);
	x[1u << 20] = 0;
	for (int i = 0; i < 100; i++)
		say(f, x);
	free(x);
}

Test(qmp, a_message_without_end_is_refused)
{
	struct fake f;

	opened(&f, megabytes);
	cr_assert_eq(call(&f, "cont", LONG), -EPROTO);
	says(&f, "a message of more than");
	is_lost(&f);
	end(&f);
}

static const char *drop;

/* Whatever is sent without end: the call ends by its deadline. */
static void drips(struct fake *f)
{
	negotiate(f);
	hear(f, "cont");
	while (say(f, drop))
		;
}

Test(qmp, a_server_that_sends_for_ever_does_not_outlast_the_deadline)
{
	static const char *const drops[] = {
		"\n", "{\"event\": \"STOP\"}\n", "{\"event\": \"RTC_CHANGE\"}\n",
		"{\"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}\n"
	};

	for (size_t i = 0; i < sizeof(drops) / sizeof(drops[0]); i++) {
		struct qmp_event e;
		struct fake f;

		drop = drops[i];
		opened(&f, drips);
		cr_assert_eq(call(&f, "cont", SHORT), -ETIMEDOUT, "%s", f.q.why);
		cr_assert_leq(f.q.nevents, QMP_EVENTS);
		qmp_forget(&f.q, NULL);
		cr_assert_eq(f.q.nevents, 0);
		/* The other name never comes. */
		cr_assert_eq(qmp_next(&f.q, i == 3 ? "STOP" : "MIGRATION", clock_us() + SHORT, &e),
			     -ETIMEDOUT);
		qmp_close(&f.q);
		end(&f);
	}
}

static void many_events(struct fake *f)
{
	char line[200];
	unsigned id;

	negotiate(f);
	id = hear(f, "cont");
	for (unsigned i = 0; i < 10000; i++) {
		snprintf(line, sizeof(line), "{\"event\": \"MIGRATION\", \"data\": {\"n\": %u}}\r\n", i);
		say(f, line);
	}
	answer(f, id, "\"return\": {}");
}

Test(qmp, of_many_events_the_latest_are_kept)
{
	struct qmp_event e;
	struct fake f;

	opened(&f, many_events);
	cr_assert_eq(call(&f, "cont", LONG), 0, "%s", f.q.why);
	cr_assert_eq(f.q.nevents, QMP_EVENTS);
	cr_assert_eq(f.q.dropped, 10000 - QMP_EVENTS);
	cr_assert_eq(qmp_next(&f.q, "MIGRATION", 0, &e), 0);
	cr_assert_eq(json_integer_value(json_object_get(e.data, "n")), 10000 - QMP_EVENTS);
	json_decref(e.data);
	end(&f);
}

static void big_event(struct fake *f)
{
	char *x = malloc(40000);

	negotiate(f);
	hear(f, "cont");
	memset(x, 'x', 39999);
	x[39999] = 0;
	say(f, "{\"event\": \"STOP\", \"data\": {\"text\": \"");
	say(f, x);
	say(f, "\"}}\n");
	free(x);
	stays_until_left(f);
}

Test(qmp, a_large_event_is_not_kept)
{
	struct fake f;

	opened(&f, big_event);
	cr_assert_eq(call(&f, "cont", LONG), -EPROTO);
	says(&f, "sends an event STOP of 40");
	end(&f);
}
