// SPDX-License-Identifier: MIT
/* Whether what both ends said and did is what the world allows. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>

#include "worlds.h"

#define DISTURBED_PERMILLE 10u /* more packets lost than this may cost a connection */
#define SENTENCE_MIN 20u
#define MANY_PACKETS 2000u

static const char *const names[] = { "source", "target" };

static bool living(const struct end_seen *e)
{
	return e->have_result;
}

static const char *outcome_of(const struct end_seen *e)
{
	if (living(e))
		return ferry_outcome_name(e->res.outcome);
	return e->not_opened[0] ? "not-opened" : e->pid ? "dead" : "not-begun";
}

void outcomes_text(char buf[80], const struct seen *s)
{
	snprintf(buf, 80, "%s / %s", outcome_of(&s->end[SRC]), outcome_of(&s->end[TGT]));
}

static bool is(const struct end_seen *e, enum ferry_outcome o)
{
	return living(e) && e->res.outcome == o;
}

/* ---- what could have gone wrong ---- */

/* Less than it needs, or a call that it must do without. */
static bool poor(const struct lot *l)
{
	return l->cgroup || l->nofile || l->nproc || l->space || l->refused ||
	       (l->tmpfs && (l->tmpfs < 110 || l->tmpfs_fill));
}

/* An end that may die of what it lacks: of memory, or of a page that the file system has no room for. */
static bool may_die(const struct lot *l)
{
	return l->cgroup || (l->tmpfs && (l->tmpfs < 110 || l->tmpfs_fill));
}

static bool link_struck(const struct round *r)
{
	const struct strike *k = &r->w->strike;

	return r->w->net.loss_permille > DISTURBED_PERMILLE ||
	       (r->seen->struck &&
		(k->what == STRIKE_STOP || k->what == STRIKE_CUT || k->what == STRIKE_HOLE));
}

static bool died(const struct end_seen *e)
{
	return e->pid && !living(e) && !e->not_opened[0];
}

static bool peer_struck(const struct round *r)
{
	return died(&r->seen->end[SRC]) || died(&r->seen->end[TGT]);
}

static bool disturbed(const struct round *r, const struct parts *parts)
{
	const struct strike *k = &r->w->strike;

	return link_struck(r) || peer_struck(r) || poor(&r->w->lot[SRC]) || poor(&r->w->lot[TGT]) ||
	       !parts->uffd || (r->seen->struck && k->what == STRIKE_CANCEL);
}

/* ---- the sentences ---- */

static const char *detail(const struct end_seen *e)
{
	return e->res.detail;
}

/* "the target gave up: WHY", where WHY is what the target says; either may have been cut at its end. */
static bool quotes(const struct end_seen *e, const struct end_seen *peer)
{
	const char *at = strstr(detail(e), " gave up: "), *why;
	size_t n;

	if (!at)
		at = strstr(detail(e), " refused: ");
	if (!at)
		return false;
	why = strchr(at, ':') + 2;
	n = strlen(why) < strlen(detail(peer)) ? strlen(why) : strlen(detail(peer));
	return n && !strncmp(why, detail(peer), n > 3 ? n - 3 : n);
}

/* One end ended before it met the other, who waited for it or asked for it in vain and can know no more. */
static bool never_met(const struct end_seen *s, const struct end_seen *t)
{
	return (s->res.phase <= FERRY_PHASE_PRE_MIGRATION && strstr(detail(t), "no source connected")) ||
	       (t->res.phase <= FERRY_PHASE_PRE_MIGRATION && strstr(detail(s), "could not be reached"));
}

/* It knows no more than that the other is not to be heard. */
static bool blames_link(const struct end_seen *e)
{
	static const char *const words[] = { "the link to the",	    "could not be reached",
					     "no source connected", "has given up while the link was lost",
					     "COMMITTED",	    "COMMIT " };

	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
		if (strstr(detail(e), words[i]))
			return true;
	return false;
}

static bool is_sentence(const char *text)
{
	return strlen(text) >= SENTENCE_MIN && !strstr(text, "(null)") && !strstr(text, "Success");
}

/* Calls that messages themselves are made of: an end without them can say why, and cannot send it. */
static bool mute(const struct lot *l)
{
	static const char *const of[] = { "sendmsg",	   "recvmsg",	     "socket",	  "accept4",
					  "epoll_create1", "timerfd_create", "setsockopt" };
	const struct call *c = world_call(l->refused);

	for (size_t i = 0; c && i < sizeof(of) / sizeof(*of); i++)
		if (!strcmp(c->name, of[i]))
			return true;
	return false;
}

/* Something that this end may have ended for by itself; both ends can have one at the same moment. */
static bool own_cause(const struct round *r, int i)
{
	const struct strike *k = &r->w->strike;

	return poor(&r->w->lot[i]) || (r->seen->struck && k->what == STRIKE_CANCEL && k->end == i) ||
	       strstr(detail(&r->seen->end[i]),
		      i == SRC ? "gave up after" : "longer than output may be held");
}

/* What would have to be in a sentence that names what this end lacks. */
static const char *lack_named(const struct lot *l)
{
	if (l->refused)
		return strerror(l->refused_err);
	if (l->nofile)
		return strerror(EMFILE);
	return l->nproc ? strerror(EAGAIN) : NULL;
}

static void judge_sentences(char *why, size_t cap, const struct round *r)
{
	const struct end_seen *s = &r->seen->end[SRC], *t = &r->seen->end[TGT];
	const struct lot *ls = &r->w->lot[SRC], *lt = &r->w->lot[TGT];
	bool link = link_struck(r) || peer_struck(r),
	     struck = r->seen->struck && r->w->strike.what != STRIKE_SWITCHOVER;
	const char *lack;

	for (int i = 0; i < 2; i++)
		if (living(&r->seen->end[i]) && r->seen->end[i].res.outcome != FERRY_OUTCOME_MIGRATED &&
		    (r->seen->end[i].res.error >= 0 || !is_sentence(detail(&r->seen->end[i])))) {
			snprintf(why, cap, "the %s says no sentence (%d)", names[i],
				 r->seen->end[i].res.error);
			return;
		}
	if (!living(s) || !living(t) || is(s, FERRY_OUTCOME_MIGRATED) || is(t, FERRY_OUTCOME_MIGRATED))
		return;
	if (!quotes(s, t) && !quotes(t, s) && !never_met(s, t)) {
		if (blames_link(s) && blames_link(t) && !link)
			snprintf(why, cap, "both blame the link, to which nothing happened");
		else if (blames_link(s) && !blames_link(t) && !link && !mute(lt))
			snprintf(why, cap, "the source blames the link for what the target knows");
		else if (blames_link(t) && !blames_link(s) && !link && !mute(ls))
			snprintf(why, cap, "the target blames the link for what the source knows");
		else if (!blames_link(s) && !blames_link(t) && !link &&
			 !(own_cause(r, SRC) && own_cause(r, TGT)))
			snprintf(why, cap, "neither quotes the other");
	}
	if (why[0] || link || struck || poor(ls) == poor(lt))
		return;
	lack = lack_named(poor(ls) ? ls : lt);
	if (strstr(detail(s),
		   "cannot be resolved")) /* the resolver's calls are refused, too, and it says what it says */
		return;
	if (lack && !strstr(detail(s), lack) && !strstr(detail(t), lack) &&
	    !strstr(detail(s), "gave up after") && !strstr(detail(s), "longer than output may be held"))
		snprintf(why, cap, "nobody says \"%s\"", lack);
}

/* ---- the endings ---- */

/* Source and target, by the letters of outcomes: x dead, - never began or not opened. */
static char letter(const struct end_seen *e)
{
	static const char letters[] = { [FERRY_OUTCOME_MIGRATED] = 'm',	 [FERRY_OUTCOME_REFUSED] = 'r',
					[FERRY_OUTCOME_FELL_BACK] = 'f', [FERRY_OUTCOME_DISCARDED] = 'd',
					[FERRY_OUTCOME_IN_DOUBT] = '?',	 [FERRY_OUTCOME_LOST] = 'l' };

	if (living(e))
		return e->res.outcome <= FERRY_OUTCOME_LOST ? letters[e->res.outcome] : '!';
	return died(e) ? 'x' : '-';
}

static bool among(const char pair[3], const char *set)
{
	for (; *set; set += set[2] ? 3 : 2)
		if (!strncmp(pair, set, 2))
			return true;
	return false;
}

static void judge_ending(char *why, size_t cap, const struct round *r, const struct parts *parts)
{
	const struct seen *s = r->seen;
	const struct world *w = r->w;
	char pair[3] = { letter(&s->end[SRC]), letter(&s->end[TGT]), 0 };
	bool server = w->mode != FERRY_MODE_STOP_AND_COPY &&
		      (w->commit_at == FERRY_COMMIT_AT_SWITCHOVER ||
		       (w->hold_limit_us && w->hold_action == FERRY_HOLD_COMMIT));
	bool by_policy = strstr(detail(&s->end[SRC]), "gave up after") ||
			 strstr(detail(&s->end[TGT]), "longer than output may be held");
	bool doubt = among(pair, "?? ?m f? ?l ?d m? ?x x?");

	if (among(pair, "mm"))
		return;
	if (!disturbed(r, parts) && !by_policy)
		snprintf(why, cap, "nothing disturbs it, and it does not migrate");
	else if (doubt && w->arbiter)
		snprintf(why, cap, "in doubt beside an arbiter");
	else if (doubt && !link_struck(r) && !peer_struck(r) && !poor(&w->lot[SRC]) && !poor(&w->lot[TGT]))
		snprintf(why, cap, "in doubt, and nothing happened to the link or an end");
	else if (strchr(pair, 'l') && !server)
		snprintf(why, cap, "lost, and no page server was asked for");
	else if (!doubt && !among(pair, "rr rd fd ll lm ml r- -- rx fx mx lx xr xd xm xl xx x- -r"))
		snprintf(why, cap, "no such ending is documented");
}

/* ---- what the ends are ---- */

static bool leaves(const struct end_seen *e)
{
	return e->fds[1] != e->fds[0] || e->threads[1] != e->threads[0] || e->memfds[1] != e->memfds[0] ||
	       e->uffds[1] != e->uffds[0];
}

static void judge_end(char *why, size_t cap, const struct round *r, int i)
{
	const struct end_seen *e = &r->seen->end[i];
	const struct lot *l = &r->w->lot[i];
	enum ferry_owner owner = !living(e)				    ? FERRY_OWNER_NONE
				 : e->res.outcome == FERRY_OUTCOME_IN_DOUBT ? FERRY_OWNER_UNKNOWN
				 : e->res.outcome == FERRY_OUTCOME_MIGRATED ||
						 e->res.outcome == FERRY_OUTCOME_LOST
					 ? FERRY_OWNER_TARGET
					 : FERRY_OWNER_SOURCE;

	if (!e->pid)
		return;
	if (e->unmade[0])
		snprintf(why, cap, "the world did not come about at the %s: %s", names[i], e->unmade);
	else if (died(e) && !(e->struck && WIFSIGNALED(e->status) && WTERMSIG(e->status) == SIGKILL) &&
		 !(may_die(l) && WIFSIGNALED(e->status) &&
		   (WTERMSIG(e->status) == SIGKILL || WTERMSIG(e->status) == SIGBUS)))
		snprintf(why, cap, "the %s died: wait status %#x", names[i], (unsigned)e->status);
	else if (e->trouble[0])
		snprintf(why, cap, "%s: %s", names[i], e->trouble);
	else if (e->not_opened[0] && !poor(l))
		snprintf(why, cap, "the %s was not opened: %.300s", names[i], e->not_opened);
	else if (living(e) && e->res.owner != owner)
		snprintf(why, cap, "the %s says %s and owner %s", names[i], outcome_of(e),
			 ferry_owner_name(e->res.owner));
	else if (living(e) && l->storm_us && !e->signals)
		snprintf(why, cap, "the world did not come about: no signal interrupted the %s", names[i]);
	else if (!died(e) && l->refused && !e->filtered)
		snprintf(why, cap, "the world did not come about: the %s has no filter", names[i]);
	else if (!died(e) && leaves(e))
		snprintf(why, cap,
			 "the %s leaves something: descriptors %u, %u before; threads %u, %u; mapped memfds %u, %u; of devices %u, %u",
			 names[i], e->fds[1], e->fds[0], e->threads[1], e->threads[0], e->memfds[1],
			 e->memfds[0], e->uffds[1], e->uffds[0]);
}

static void judge_network(char *why, size_t cap, const struct round *r)
{
	uint64_t carried, vanished;

	if (!r->net)
		return;
	if (!net_count(r->net, &carried, &vanished))
		snprintf(why, cap, "the world did not come about: %s", r->net->why);
	else if (r->seen->end[SRC].have_result && !carried)
		snprintf(why, cap, "the world did not come about: nothing crossed the wire");
	else if (r->w->net.loss_permille > DISTURBED_PERMILLE && carried > MANY_PACKETS && !vanished)
		snprintf(why, cap, "the world did not come about: no packet was lost");
}

void world_judge(char *why, size_t cap, const struct round *r, const struct parts *parts)
{
	const struct seen *s = r->seen;

	why[0] = 0;
	if (s->late)
		snprintf(why, cap, "it has not ended within %" PRIu64 " s", s->bound_us / 1000000);
	else if (s->alarm)
		snprintf(why, cap, "%s", s->alarm_text);
	for (int i = 0; i < 2 && !why[0]; i++)
		judge_end(why, cap, r, i);
	if (!why[0])
		judge_ending(why, cap, r, parts);
	if (!why[0])
		judge_sentences(why, cap, r);
	if (!why[0])
		judge_network(why, cap, r);
}
