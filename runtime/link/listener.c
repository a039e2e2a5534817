// SPDX-License-Identifier: MIT
/* A target's listener: which caller becomes the session's source, and which are refused. */
#include <errno.h>

#include "listener.h"
#include "current.h"
#include "hello.h"
#include "lobby.h"

#define LOOK_MAX 8u /* callers handled in one look at the listener */

void link_forget_caller(struct ferry_session *s)
{
	caller_free(s->link.caller);
	s->link.caller = NULL;
	s->link.fail = &s->link.own_fail;
}

void link_take_caller(struct ferry_session *s, struct caller *c)
{
	link_forget_caller(s);
	s->link.caller = c;
	s->link.fail = &c->fail;
	link_install(s, c->link);
	s->link.recv_seq = c->asides;
	s->link.first_words = c;
}

void link_part_caller(struct ferry_session *s)
{
	struct caller *c = s->link.caller;

	link_install(s, NULL);
	s->link.caller = NULL;
	link_forget_caller(s);
	lobby_part(c);
}

static void wake_main(void *arg)
{
	session_wake(arg);
}

int link_listen(struct ferry_session *s)
{
	struct xport_listener *l;
	int err = xport_listen(&l, s->uri, &s->link.param, &s->fail);

	if (err)
		return err;
	err = lobby_new(&s->link.lobby, l, s->cfg.timeout_us, wake_main, s, &s->fail);
	if (err < 0) {
		l->ops->close(l);
		return err;
	}
	pthread_mutex_lock(&s->view_lock);
	err = l->ops->uri(l, s->uri, sizeof(s->uri));
	pthread_mutex_unlock(&s->view_lock);
	if (err) {
		lobby_free(s->link.lobby);
		s->link.lobby = NULL;
	}
	return err;
}

/* Whether c is our source on a newer connection. Strangers can know all but the source's number. */
static bool is_ours(const struct ferry_session *s, const struct caller *c)
{
	const struct xport_link_id *id = &c->link->id;
	uint32_t newest = s->link.pending ? s->link.pending->link->id.generation : s->link.generation;

	return s->link.peer_known && !memcmp(id->session, s->session, sizeof(s->session)) &&
	       id->generation > newest && hello_is_source(s, c->msg, c->len, c->asides, id);
}

int link_look(struct ferry_session *s)
{
	struct fail why = { 0 };
	struct caller *c;
	int err = s->link.lobby ? 0 : -EAGAIN;

	s->link.looked_us = now_us();
	for (unsigned n = 0; !err && n < LOOK_MAX; n++) {
		err = lobby_next(s->link.lobby, &c, &why);
		if (err)
			break;
		if (!is_ours(s, c)) {
			lobby_refuse(c);
			continue;
		}
		if (s->link.pending)
			lobby_part(s->link.pending);
		s->link.pending = c;
	}
	if (!s->link.x && fail_err(&why)) { /* accept_until() reports it */
		fail_reset(s->link.fail);
		fail(s->link.fail, err, "%s", fail_text(&why));
	}
	return s->link.pending ? 1 : err == -EAGAIN ? 0 : err;
}
