// SPDX-License-Identifier: MIT
/* The heartbeat: a thread sends four PINGs per timeout, so that a long op is not taken for a dead host. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include "heartbeat.h"
#include "message.h"
#include "runtime/base/thread.h"
#include "runtime/session/config.h"

/* Read the counters under send_lock: otherwise the PING could be older than a message sent before it. */
void heartbeat_send(struct ferry_session *s)
{
	struct wire_ping ping;

	pthread_mutex_lock(&s->link.send_lock);
	ping = (struct wire_ping){ .pages_left = atomic_load(&s->stats.remaining),
				   .faults = atomic_load(&s->stats.faults) };
	link_send_locked(s, WIRE_PING, &ping, sizeof(ping), NULL, 0); /* main will notice an error itself */
	pthread_mutex_unlock(&s->link.send_lock);
}

static void *heartbeat_main(void *arg)
{
	struct ferry_session *s = arg;
	struct pollfd p = { .fd = s->link.heart_fd, .events = POLLIN };

	while (!atomic_load(&s->link.heart_stop)) {
		uint64_t t = atomic_load(&s->link.peer_timeout_us);
		if (!t || t > s->cfg.timeout_us)
			t = s->cfg.timeout_us;
		if (t < CONFIG_TIMEOUT_US_MIN)
			t = CONFIG_TIMEOUT_US_MIN;
		if (poll(&p, 1, (int)((t / 4000) < INT32_MAX ? t / 4000 : INT32_MAX)) > 0)
			break;
		heartbeat_send(s);
	}
	return NULL;
}

int heartbeat_start(struct ferry_session *s)
{
	int err = thread_start(&s->link.heart, heartbeat_main, s);

	if (err < 0)
		return fail_cure(&s->fail, CURE_THREAD, err, "the heartbeat thread cannot be started");
	s->link.beating = true;
	return 0;
}

void heartbeat_stop(struct ferry_session *s)
{
	uint64_t one = 1;

	if (!s->link.beating)
		return;
	atomic_store(&s->link.heart_stop, true);
	if (write(s->link.heart_fd, &one, sizeof(one)) < 0)
		session_log(s, 3, NULL, "wake-failed errno=%d", errno);
	pthread_join(s->link.heart, NULL);
	s->link.beating = false;
}
