/* SPDX-License-Identifier: MIT */
/*
 * Who owns the VM, from the last round of pre-copy on: what runtime/session/commit.c, source/switchover.c, target/switchover.c and link.c do,
 * step by step, for spin. Each step that others can see is a statement of its own: between any two an end may die.
 *
 *	source()  target()	the two ends; an inline is named after its function in runtime/
 *	network()		cuts links, for a while or for good, and kills
 *	settle()		when both have ended: the operator of docs/failure-model.md, and the judgement
 *
 * The link. The transport delivers whole messages in order or loses the link. A message is taken from its queue at any
 * later time. A cut takes whatever is sent afterwards; of what was sent before, its receiver reads as much as it likes
 * before it notices. So one direction that is dead before the other, a black hole, and a peer that stands still for
 * longer than timeout_us are in it: a receiver that takes nothing more and then drops the link has seen the same. Cuts
 * are as many as the search likes. The data channels are there only as "pages are missing", which the pull can end as
 * long as the target has not noticed a loss.
 *
 * Time. When a window (reconnect_us) may pass is what TIMING says:
 *	HEALS	only where the other end is gone: the link comes back in time
 *	CUT	also when the network is down for good; a source that waits longer for its target, does
 *	STOPS	at any moment: a process stood still, a host was slow
 *	REPEATS	as HEALS, and when nothing of what is waited for has come for STALLED links in a row: link.c counts the
 *		time without progress, the model the links. The link comes back as often as the search likes and is lost
 *		again, and from any moment on there may be a hole in the path: messages cross, page data and long
 *		messages do not.
 *
 * Strangers (-DSTRANGERS). Whoever answers when the source comes back may be somebody else: a fresh target that listens on the
 * dead one's port and knows nothing, or a forger, who needs no target to be dead and says what he likes. The target drew a
 * random number at the first handshake; no stranger can show it. A stranger who shows none has not come back: the source
 * goes on trying until its time is over. And a forged source may knock at the target, which it cannot show the source's number:
 * it is refused, and that changes nothing here, but in the mutation that lets it in.
 *
 * Checked on the way: the asserts. In the end: judge(). That the end comes, without any assumption of fairness (pan -DNP):
 * in HEALS each cycle of the search passes a cut (the label progress in network()), so whoever is cut finitely often gets
 * there. In REPEATS a cut is no progress and there is no cycle at all, so whoever is cut for ever gets there, too.
 *
 * ARBITER: 0 none; 1 answers; 2 may fail to answer, with the record made or not, and is asked again later.
 * A mutation (-DMUTATE_...) is one mistake; run.sh lists them, and each must be found.
 */
#define HEALS 0
#define CUT 1
#define STOPS 2
#define REPEATS 3
#ifndef TIMING
#define TIMING HEALS
#endif
#ifndef ARBITER
#define ARBITER 0
#endif

/* Two mistakes at once, the protocol without numbers: either end's check alone keeps both from waiting for ever. */
#ifdef MUTATE_NOBODY_HAS_A_NUMBER
#define MUTATE_NUMBER_IS_NOT_CHECKED
#endif
#if defined(MUTATE_NUMBER_IS_NOT_CHECKED) || defined(MUTATE_ABORT_OF_A_STRANGER_IS_HEARD) || \
	defined(MUTATE_STRANGER_STARTS_THE_WINDOW_ANEW)
#define STRANGERS
#endif
#ifdef STRANGERS
#define STRANGER true
#else
#define STRANGER false
#endif

#ifdef MUTATE_ABORT_SAID_ONCE
#define TELL_TRIES 0
#else
#define TELL_TRIES 2 /* link.c has 4: it is the same twice over */
#endif

mtype:msg = { SWITCHOVER, RUNNING, PREPARED, COMMIT, COMMITTED, COMPLETE, BYE, ABORT, HELLO_ACK };

/* enum commit_state */
#define OPEN 0
#define IS_PREPARED 1
#define DECIDED 2
#define ABORTED 3

/* enum ferry_owner, as far as it is recorded */
#define NOBODY 0
#define AT_SOURCE 1
#define AT_TARGET 2

/* enum ferry_outcome, and what has none */
#define UNDER_WAY 0
#define MIGRATED 1
#define REFUSED 2
#define FELL_BACK 3
#define DISCARDED 4
#define IN_DOUBT 5
#define LOST 6
#define DEAD 7

/* ways to finish */
#define STOP 0	     /* stop-and-copy */
#define COMPLETION 1 /* commit at completion; the hold limit, if there is one, falls back */
#define EARLY 2	     /* commit at completion, or at the hold limit */
#define SERVER 3     /* commit at the switchover */
#define TENTATIVE (way == COMPLETION || way == EARLY)

byte way;

/* the link */
#define NONE 0
#define DIALS 1
#define UP 2
#define OFFERED 1   /* the source's newest connection waits to be accepted */
#define ABANDONED 2 /* one that the source has given up waits */
chan to_target = [5] of { mtype:msg };
chan to_source = [5] of { mtype:msg, byte, byte }; /* commit state and pages left: of HELLO_ACK and PREPARED */
byte s_link = UP, t_link = UP, offer;		  /* as each end sees it */
bit whole = 1;					  /* both ends have it, and it is not cut */
bit down;					  /* for good */
bit foreign;					  /* the source's newest connection leads to a stranger */
#define S_CUT (!whole && !foreign)

/* Progress: how many links in a row have brought an end nothing of what it waits for. */
#define STALLED 1 /* with 2 it is the same, in ten times as many states */
byte s_idle, t_idle;
bit gave_up; /* an end has, because of that */
bit hole;    /* packets of full size vanish */
#if TIMING == REPEATS
#define HOLE hole
#define S_STALLED (s_idle >= STALLED)
#define T_STALLED (t_idle >= STALLED)
#else
#define HOLE false
#define S_STALLED false
#define T_STALLED false
#endif

/* A mistake: in this phase each link that comes back starts the window anew, whatever it brings. */
#define PRECOPY 0
#define PREPARE 1
#define POSTCOPY 2
#define COMMITMENT 3
#define PAGE_SERVER 4
#define GOODBYE 5
#ifdef MUTATE_WINDOW_STARTS_ANEW
#define FORGETS(phase) (MUTATE_WINDOW_STARTS_ANEW == phase)
#else
#define FORGETS(phase) false
#endif

/* the ends */
byte s_commit = OPEN, t_commit = OPEN;
bit s_left, t_left; /* pages that PREPARED counted */
bit missing;	    /* pages are still at the source only */
byte s_end, t_end;  /* outcome of ferry_run() */
bit s_settled, t_settled;
bit s_dies, t_dies;
byte tells;
bit confirmed, switched;

/* the VM, as the world sees it */
bit s_runs = 1, t_runs, t_held, t_out; /* t_out: the target has let something out */
bit went_back;			       /* the source has run on from the stop point */
bit torn;			       /* the target has pages of a source that ran again */
bit was_prepared, all_here;	       /* the target said PREPARED, and nothing was missing then */
bit t_told, t_ordered;		       /* it heard ABORT, COMMIT */
bit s_asked_late;		       /* there was no record before the source was asked again */

/* Written and read within one step. */
hidden mtype:msg m;
hidden byte l;

byte record = NOBODY;
bit source_claimed; /* and the record is of the source's making */

#define S_GONE (s_end != UNDER_WAY)
#define T_GONE (t_end != UNDER_WAY)
#ifndef FAILS
#define FAILS true /* an op that fails, a cancel: whenever it likes */
#endif

inline s_runs_again()
{
	d_step {
		s_runs = 1;
		went_back = 1;
		assert(s_commit == ABORTED);
		assert(t_commit != DECIDED && !t_out);
		assert(!(t_runs && !t_held));
	}
}

inline t_resume()
{
	d_step {
		t_runs = 1;
		t_out = t_out || !t_held;
		assert(t_held || (t_commit == DECIDED && !s_runs && !went_back));
		assert(t_commit == OPEN || t_commit == DECIDED);
	}
}

inline t_release()
{
	d_step {
		t_held = 0;
		t_out = 1;
		assert(t_commit == DECIDED && t_runs && !torn);
		assert(!s_runs && !went_back);
	}
}

inline t_owns()
{
	d_step {
		t_commit = DECIDED;
		assert(!s_runs && !went_back);
	}
}

/* ---- the link ---- */

inline s_send(m)
{
	d_step {
		assert(s_link == UP);
		if
		:: whole -> assert(nfull(to_target)); to_target!m
		:: else
		fi
	}
}

inline t_send(m, c, l)
{
	d_step {
		if
		:: whole && t_link == UP -> assert(nfull(to_source)); to_source!m(c, l)
		:: else
		fi
	}
}

inline s_drop()
{
	d_step {
		do
		:: to_source?_, _, _
		:: empty(to_source) -> break
		od;
		if
		:: offer == OFFERED -> offer = ABANDONED
		:: else
		fi;
		s_link = NONE;
		foreign = 0;
		whole = 0
	}
}

inline t_drop()
{
	d_step {
		do
		:: to_target?_
		:: empty(to_target) -> break
		od;
		t_link = NONE;
		whole = 0
	}
}

#ifdef MUTATE_SOURCE_GIVES_UP_FIRST
#define S_WAITS_LONGER false
#else
#define S_WAITS_LONGER (ARBITER && s_left && !confirmed && s_commit == DECIDED && t_commit == IS_PREPARED && !T_GONE)
#endif

#if TIMING == HEALS || TIMING == REPEATS
#define S_WINDOW_PASSES (T_GONE || (S_STALLED && !S_WAITS_LONGER))
#define T_WINDOW_PASSES (S_GONE || T_STALLED || (S_STALLED && s_link == NONE)) /* nobody dials any more */
#elif TIMING == CUT
#define S_WINDOW_PASSES ((T_GONE || down) && !S_WAITS_LONGER)
#define T_WINDOW_PASSES (S_GONE || down)
#else
#define S_WINDOW_PASSES true
#define T_WINDOW_PASSES true
#endif

/* Pages have landed: the source knows by what the target says. */
inline pages_land()
{
	t_idle = 0;
	if
	:: s_link == UP && whole -> s_idle = 0
	:: else
	fi
}

/* What the judgement has to know. */
inline s_notes()
{
	gave_up = gave_up || !T_GONE
}

inline t_notes()
{
	gave_up = gave_up || !S_GONE
}

/* Another link, and nothing has come of it yet. */
inline s_tries(phase)
{
#if TIMING == REPEATS
	if
	:: FORGETS(phase)
	:: else -> s_idle++
	fi
#else
	skip
#endif
}

inline t_tries(phase)
{
#if TIMING == REPEATS
	if
	:: FORGETS(phase)
	:: else -> t_idle++
	fi
#else
	skip
#endif
}

/*
 * What a stranger says first: ABORT (REFUSED is the same here), or a HELLO_ACK that would be due from the target, with a number
 * of his own. Who says nothing is hung up on, and ABORT stands for that, too.
 */
inline stranger_answers()
{
	if
#ifdef MUTATE_NOBODY_HAS_A_NUMBER
	:: T_GONE -> m = HELLO_ACK; l = OPEN /* a fresh one, that takes whoever comes for a first one */
#else
	:: T_GONE -> m = ABORT /* a fresh one refuses whoever says that he comes back, and listens on */
	:: m = ABORT
	:: m = HELLO_ACK; l = OPEN
	:: switched -> m = HELLO_ACK; l = IS_PREPARED
	:: s_commit == DECIDED -> m = HELLO_ACK; l = DECIDED
#endif
	fi
}

/* Not come back: the number is not there, or another. */
inline s_hears_stranger()
{
	atomic {
		foreign ->
#ifdef MUTATE_STRANGER_STARTS_THE_WINDOW_ANEW
		s_idle = 0;
#endif
		stranger_answers();
		if
#ifdef MUTATE_NUMBER_IS_NOT_CHECKED
		:: m == HELLO_ACK -> s_link = UP; peer = l
#else
		:: m == HELLO_ACK -> s_drop()
#endif
#ifdef MUTATE_ABORT_OF_A_STRANGER_IS_HEARD
		:: m == ABORT -> s_drop(); aborted = 1
#else
		:: m == ABORT -> s_drop()
#endif
		fi
	}
}

#ifdef MUTATE_ABORT_OF_A_STRANGER_IS_HEARD
#define TOLD_BY_A_STRANGER aborted
#else
#define TOLD_BY_A_STRANGER false
#endif

/* link_recover(): the link is UP again, and what HELLO_ACK said; or it is not */
inline s_recover(phase)
{
	s_drop();
	do
	:: atomic { !down && (!T_GONE || STRANGER) && !S_STALLED ->
			s_tries(phase);
			s_link = DIALS;
			if
			:: !T_GONE -> offer = OFFERED
			:: STRANGER -> foreign = 1
			fi };
		if
		:: s_hears_stranger();
			if
			:: s_link == UP || TOLD_BY_A_STRANGER -> break
			:: else
			fi
		:: atomic { to_source?HELLO_ACK(peer, l) ->
				s_link = UP;
				if
				:: peer != OPEN -> s_left = l
				:: else
				fi };
			break
		:: atomic { offer != OFFERED && S_CUT -> s_drop() }
		fi
	:: atomic { S_WINDOW_PASSES -> s_notes() }; break
	od
}

inline t_recover(phase)
{
	t_drop();
	do
	:: atomic { offer == OFFERED && !T_STALLED ->
			t_tries(phase);
			offer = 0;
			t_link = UP;
			whole = 1;
#ifdef MUTATE_HELLO_ACK_IS_MUTE
			t_send(HELLO_ACK, OPEN, 0)
#else
			t_send(HELLO_ACK, t_commit, t_left)
#endif
		};
		break
	:: atomic { offer == ABANDONED && !T_STALLED -> t_tries(phase); offer = 0; t_link = UP }; break
	:: atomic { T_WINDOW_PASSES -> t_notes() }; break
	:: t_commit == OPEN && way == COMPLETION && t_held -> break /* the hold limit */
	od
}

/* hear_abort() */
inline s_hears_abort()
{
	aborted = 1;
	s_send(ABORT)
}

inline t_hears_abort()
{
	aborted = 1;
	t_told = 1;
	t_send(ABORT, 0, 0)
}

/* ---- the arbiter ---- */

/* arbitrate(): a compare-and-swap, whose answer may not come */
inline ask(want, at_source)
{
	if
	:: ARBITER -> atomic {
			if
			:: record == NOBODY -> record = want; source_claimed = at_source && want == AT_SOURCE
			:: else
			fi;
			is = record };
	:: ARBITER == 2 -> is = NOBODY
	:: ARBITER == 2 -> atomic {
			if
			:: record == NOBODY -> record = want; source_claimed = at_source && want == AT_SOURCE
			:: else
			fi;
			is = NOBODY }
	fi
}

/* Later, outside the library: arbiter(vm, result.session, result.claim, &is). */
inline ask_again(want, at_source)
{
	atomic {
		if
		:: record == NOBODY -> record = want; source_claimed = at_source && want == AT_SOURCE
		:: else
		fi;
		is = record
	}
}

/* ---- source/switchover.c ---- */

/* link_say_failed() and its linger() */
inline s_say_failed()
{
	s_send(ABORT);
	do
	:: atomic { to_source?m, _, _ -> told = m == ABORT };
		if
		:: told -> break
		:: else
		fi
	:: S_CUT -> break
	od
}

inline tell_target()
{
	told = aborted;
	if
	:: !told && s_link == UP -> s_say_failed()
	:: else
	fi;
	s_drop();
	do
	:: !told && switched && tells < TELL_TRIES ->
		tells++;
		s_idle = 0; /* TELL_TRIES is the bound */
		s_recover(GOODBYE);
		if
		:: s_link == UP -> s_say_failed()
		:: else -> break
		fi;
		s_drop()
	:: else -> break
	od
}

/* Where pages are missing the target is asked first: it may still give the VM back, and will not once this end has asked. */
inline s_asks_again()
{
	if
	:: s_end == IN_DOUBT && ARBITER ->
		if
#ifdef MUTATE_SOURCE_IS_ASKED_FIRST
		:: s_commit == DECIDED -> s_asked_late = record == NOBODY; ask_again(AT_TARGET, true)
#else
		:: s_commit == DECIDED && (t_settled || !s_left) -> s_asked_late = record == NOBODY; ask_again(AT_TARGET, true)
#endif
		:: s_commit == ABORTED -> ask_again(AT_SOURCE, true)
		fi;
		if
		:: is == AT_SOURCE ->
			assert(s_commit == ABORTED || s_left);
			s_commit = ABORTED;
			s_runs_again()
		:: else
		fi
	:: else
	fi
}

/* Ends ferry_run(). */
inline s_ends(outcome)
{
	atomic {
		s_drop();
		s_end = outcome
	}
}

inline fall_back()
{
	is = AT_SOURCE;
#ifdef MUTATE_RESUMES_BEFORE_IT_ASKS
	s_runs_again();
#endif
#ifndef MUTATE_ARBITER_IS_NOT_ASKED
	if
	:: switched && ARBITER && !aborted -> ask(AT_SOURCE, true)
	:: else
	fi;
#endif
	if
	:: is == AT_SOURCE ->
		s_runs_again();
		tell_target();
		s_ends(FELL_BACK)
	:: is == AT_TARGET -> s_ends(MIGRATED)
	:: else -> s_ends(IN_DOUBT)
	fi
}

inline in_doubt()
{
	if
	:: confirmed -> s_ends(LOST)
	:: !confirmed && ARBITER ->
		ask(AT_TARGET, true);
		if
		:: is == AT_TARGET && s_left -> s_ends(LOST)
		:: is == AT_TARGET && !s_left -> s_ends(MIGRATED)
		:: is == AT_SOURCE ->
			assert(s_left);
			s_commit = ABORTED; /* commit_revoke() */
			s_runs_again();
			s_ends(FELL_BACK)
		:: else -> s_ends(IN_DOUBT)
		fi
#ifdef MUTATE_COMMITTED_LOST_IS_AN_ABORT
	:: !confirmed && !ARBITER -> s_commit = ABORTED; s_runs_again(); s_ends(FELL_BACK)
#else
	:: !confirmed && !ARBITER -> s_ends(IN_DOUBT)
#endif
	fi
}

inline source_fail()
{
	if
	:: s_commit == OPEN && !paused -> s_commit = ABORTED; tell_target(); s_ends(REFUSED)
	:: s_commit == OPEN && paused -> s_commit = ABORTED; fall_back()
	:: s_commit == DECIDED -> in_doubt()
#ifdef MUTATE_ABORT_AFTER_COMMIT
	:: s_commit == ABORTED -> fall_back()
#endif
	fi
}

/* await_in_downtime() */
inline await(type)
{
	if
	:: atomic { to_source?m, _, l ->
			if
			:: m == type -> s_left = l
			:: m == ABORT -> s_hears_abort(); goto fail
			fi }
#ifdef MUTATE_SILENCE_IS_PREPARED
	:: !whole && type == PREPARED
#endif
	:: S_CUT -> goto fail
	:: FAILS -> goto fail
	fi
}

proctype source()
{
	byte is, peer, phase;
	bit told, aborted, paused;

	{
		/* source_precopy(): a round, with its fence; where pages will be missing, prepare_postcopy() */
		phase = PRECOPY;
		do
		:: !HOLE && (phase == PREPARE || way == STOP) -> d_step { pages_land() }; break
		:: !HOLE && phase == PRECOPY && way != STOP -> d_step { pages_land() }; phase = PREPARE
		:: HOLE && s_link == UP && whole -> whole = 0 /* no answer in timeout_us */
		:: s_link == UP && S_CUT -> s_recover(phase);
			if
			:: s_link == UP -> assert(peer == OPEN)
			:: else -> goto fail
			fi
		:: atomic { to_source?m, _, _ -> assert(m == ABORT); s_hears_abort(); goto fail }
		:: FAILS -> goto fail
		od;
		/* source_stop_and_copy() */
		atomic { s_runs = 0; paused = 1 };
		if
		:: !(HOLE && way == STOP)
		:: FAILS -> goto fail
		fi;
		switched = 1;
		s_send(SWITCHOVER);
		if
		:: TENTATIVE -> await(RUNNING)
		:: else -> goto downtime
		fi;
		/* source_postcopy() */
		do
		:: atomic { to_source?m, _, l ->
				if
				:: m == PREPARED -> s_left = l; s_idle = 0; break
				:: m == ABORT -> s_hears_abort(); goto fail
				fi }
		:: S_CUT -> s_recover(POSTCOPY);
			if
			:: s_link == UP && peer == IS_PREPARED -> break
			:: s_link == UP && peer != IS_PREPARED -> assert(peer == OPEN)
			:: else -> goto fail
			fi
		:: FAILS -> goto fail
		od;
		goto commitment;
downtime:	await(PREPARED);
		/* source_commitment() */
commitment:	if
		:: true
		:: FAILS -> goto fail
		fi;
		atomic { assert(s_commit == OPEN && !s_runs && was_prepared); s_commit = DECIDED };
		s_send(COMMIT);
#ifdef MUTATE_SOURCE_RESUMES_AFTER_COMMIT
		if
		:: true
		:: s_commit = ABORTED; s_runs_again(); s_ends(FELL_BACK); goto out
		fi;
#endif
#ifdef MUTATE_ABORT_AFTER_COMMIT
		if
		:: true
		:: s_commit = ABORTED; goto fail /* a cancel that comes too late */
		fi;
#endif
		do
		:: atomic { to_source?m, _, _ -> assert(m == COMMITTED); break }
		:: S_CUT -> s_recover(COMMITMENT);
			if
			:: s_link == UP && peer == DECIDED -> break
#ifndef MUTATE_COMMIT_IS_NOT_REPEATED
			:: s_link == UP && peer == IS_PREPARED -> s_send(COMMIT)
#else
			:: s_link == UP && peer == IS_PREPARED
#endif
			:: s_link == UP && peer != DECIDED && peer != IS_PREPARED -> assert(false)
			:: s_link != UP -> goto fail
			fi
		od;
		atomic { assert(t_commit == DECIDED); confirmed = 1 };
		s_idle = 0;
		/* source_activation(), page_server() */
		if
		:: !s_left -> goto bye
		:: else
		fi;
		do
		:: atomic { to_source?m, _, _ -> assert(m == COMPLETE); break }
		:: S_CUT -> s_recover(PAGE_SERVER);
			if
			:: s_link == UP -> assert(peer == DECIDED)
			:: else -> goto fail
			fi
		od;
bye:		s_send(BYE);
		s_ends(MIGRATED);
		goto out;
fail:		source_fail();
		s_asks_again();
out:		s_settled = 1
	} unless {
		atomic { s_dies -> s_runs = 0; s_ends(DEAD); s_settled = 1 }
	}
}

/* ---- target/switchover.c ---- */

inline t_ends(outcome)
{
	atomic {
		t_drop();
		offer = 0; /* nobody listens */
		t_end = outcome
	}
}

inline t_say_failed()
{
	if
	:: t_link == UP && !aborted ->
		t_send(ABORT, 0, 0);
		do
		:: atomic { to_target?m ->
				if
				:: m == ABORT -> break
				:: else
				fi }
		:: !whole -> break
		od
	:: else
	fi
}

inline discard()
{
#ifdef MUTATE_TARGET_RUNS_ON
	skip
#else
	t_runs = 0
#endif
}

/* The arbiter says who, or may: settle() and take_over(); or later, when it is asked again. */
inline t_obeys(later)
{
	if
	:: is == AT_TARGET ->
		t_owns();
		if
		:: !t_left ->
			t_resume();
			t_release();
			if
			:: !later -> t_ends(MIGRATED)
			:: else
			fi
		:: t_left ->
			discard();
			if
			:: !later -> t_ends(LOST)
			:: else
			fi
		fi
	:: is == AT_SOURCE ->
#ifdef MUTATE_ARBITER_IS_IGNORED
		if
		:: !t_left -> t_owns(); t_resume(); t_release()
		:: else
		fi;
#endif
		t_commit = ABORTED;
		discard();
		if
		:: !later -> t_ends(DISCARDED)
		:: else
		fi
	fi
}

inline target_settle()
{
	atomic {
#ifndef MUTATE_RUNS_IN_DOUBT
		t_runs = 0;
#endif
		t_drop();
#ifndef MUTATE_FORGETS_THAT_ALL_IS_HERE
		t_left = missing;
#endif
#ifdef MUTATE_CLAIMS_WITHOUT_ITS_PAGES
		t_left = 0;
#endif
	};
	is = NOBODY;
	if
	:: ARBITER && t_left -> ask(AT_SOURCE, false)
	:: ARBITER && !t_left -> ask(AT_TARGET, false)
	:: !ARBITER
	fi;
	if
#ifdef MUTATE_FORGETS_WHAT_IT_PREPARED
	:: is == NOBODY -> t_commit = ABORTED; discard(); t_ends(DISCARDED)
#else
	:: is == NOBODY -> t_ends(IN_DOUBT)
#endif
	:: else -> t_obeys(false)
	fi
}

inline t_asks_again()
{
	if
	:: t_end == IN_DOUBT && ARBITER ->
		if
		:: t_left -> ask_again(AT_SOURCE, false)
		:: else -> ask_again(AT_TARGET, false)
		fi;
		t_obeys(true)
	:: else
	fi
}

inline target_fail()
{
	if
	:: t_commit == IS_PREPARED && !aborted -> target_settle()
	:: t_commit == DECIDED -> discard(); t_ends(LOST)
	:: t_commit == OPEN || (t_commit == IS_PREPARED && aborted) ->
		t_commit = ABORTED;
		t_say_failed();
		discard();
		t_ends(DISCARDED)
	fi
}

/* A page may land as long as the target has not noticed that the link is lost. */
#define PULLED (missing && t_link == UP && !HOLE)
inline pull()
{
	d_step {
		missing = 0;
		torn = s_runs;
		pages_land()
	}
}

/* A link that is there and answers no get is as bad as a lost one, and the next one is no better for being there. */
#ifdef MUTATE_WAITS_WHILE_THE_LINK_IS_UP
#define STARVES false
#else
#define STARVES (missing && t_link == UP && HOLE && whole)
#endif
inline starve()
{
	if
	:: atomic { T_STALLED -> t_notes() }; goto fail /* with a link to say so */
	:: !T_STALLED -> whole = 0
	fi
}

/* The last words again on a new link, until BYE is here or nobody comes back. */
inline target_await_bye(again)
{
	do
	:: atomic { to_target?m -> assert(m == BYE); break }
	:: !whole -> t_recover(GOODBYE);
		if
		:: t_link == UP -> t_send(again, 0, 0)
		:: else -> break
		fi
	od
}

proctype target()
{
	byte is;
	bit aborted;

	{
		/* target_precopy() */
		do
		:: atomic { to_target?m ->
				if
				:: m == SWITCHOVER -> break
				:: m == ABORT -> t_hears_abort(); goto fail
				fi }
		:: !whole -> t_recover(PRECOPY);
			if
			:: t_link == UP
			:: else -> goto fail
			fi
		:: FAILS -> goto fail
		od;
		t_idle = 0;
		missing = way != STOP;
		/* target_stop_and_copy() */
		if
		:: FAILS -> goto fail
		:: PULLED -> pull()
		:: true
		fi;
		if
		:: TENTATIVE -> t_held = 1
		:: else -> goto commitment
		fi;
		t_resume();
#ifdef MUTATE_RELEASES_BEFORE_COMMIT
		t_release();
#endif
		t_send(RUNNING, 0, 0);
		/* target_postcopy() */
		do
		:: !missing -> break
		:: PULLED -> pull()
		:: STARVES -> starve()
		:: missing && way == EARLY -> break /* the hold limit */
		:: atomic { to_target?m -> assert(m == ABORT); t_hears_abort(); goto fail }
		:: !whole -> t_recover(POSTCOPY);
			if
			:: t_link == UP
			:: else -> goto fail
			fi
		:: FAILS -> goto fail
		od;
		/* target_commitment() */
commitment:	if
		:: true
		:: FAILS -> goto fail
		fi;
		atomic { assert(t_commit == OPEN); t_left = missing; t_commit = IS_PREPARED; was_prepared = 1; all_here = !missing };
		t_send(PREPARED, 0, t_left);
		do
		:: atomic { to_target?m ->
				if
				:: m == COMMIT -> t_ordered = 1; break
				:: m == ABORT -> t_hears_abort(); goto fail
				fi }
		:: PULLED && TENTATIVE -> pull() /* there is no sweep before the VM runs here */
		:: !whole ->
			t_drop();
#ifndef MUTATE_RUNS_IN_DOUBT
			t_runs = 0;
#endif
			t_recover(COMMITMENT);
			if
			:: t_link == UP
			:: else -> goto fail
			fi
		od;
		t_idle = 0;
		t_owns();
		/* target_activation() */
		if
		:: !t_runs -> t_resume()
		:: else
		fi;
		t_release();
		t_send(COMMITTED, 0, 0);
		if
		:: !t_left -> target_await_bye(COMMITTED); goto migrated
		:: else
		fi;
		/* finish_page_server() */
		do
		:: !missing -> break
		:: PULLED -> pull()
		:: STARVES -> starve()
		:: atomic { to_target?m -> assert(false) }
		:: !whole -> t_recover(PAGE_SERVER);
			if
			:: t_link == UP
#ifdef MUTATE_LOST_WITH_ALL_PAGES_HERE
			:: t_link != UP -> goto fail
#else
			:: t_link != UP && missing -> goto fail
			:: t_link != UP && !missing -> goto migrated
#endif
			fi
		od;
		t_send(COMPLETE, 0, 0);
		target_await_bye(COMPLETE);
migrated:	t_ends(MIGRATED);
		goto out;
fail:		target_fail();
		t_asks_again();
out:		t_settled = 1
	} unless {
		atomic { t_dies -> t_runs = 0; t_ends(DEAD); t_settled = 1 }
	}
}

/* ---- the world ---- */

proctype network()
{
	do
#if TIMING == REPEATS
	:: whole -> whole = 0
	:: offer == OFFERED -> offer = ABANDONED
	:: !hole -> hole = 1
#else
	:: whole ->
progress:	whole = 0
	:: offer == OFFERED ->
progress_dial:	offer = ABANDONED
	:: !S_GONE && !s_dies -> s_dies = 1
	:: !T_GONE && !t_dies -> t_dies = 1
#endif
	:: TIMING == CUT && !down -> d_step { down = 1; whole = 0; offer = 0 }
	:: foreign && s_link == UP -> foreign = 0 /* he hangs up */
#ifdef MUTATE_TARGET_TAKES_ANY_SOURCE
	:: atomic { s_commit == ABORTED && t_commit == IS_PREPARED && t_link == UP && empty(to_target) -> to_target!COMMIT }
#endif
	:: break /* from here on it is calm: whatever stands still now, stands still for good */
	od
}

/*
 * docs/failure-model.md, "Without an arbiter". Who died is fenced; whether a source ran on before it died has to be
 * known from elsewhere.
 */
inline operator_settles()
{
	if
	:: t_end == IN_DOUBT && (s_end == FELL_BACK || went_back || (s_end == DEAD && missing)) -> discard()
	:: t_end == IN_DOUBT && s_end != FELL_BACK && !went_back && !missing -> t_owns(); t_resume(); t_release()
	:: t_end == IN_DOUBT && s_end == IN_DOUBT && missing -> discard(); s_commit = ABORTED; s_runs_again()
	:: else
	fi
}

c_decl {
	static unsigned char endings[4][2][8][8];
};

c_code {
	static void show_reached(void)
	{
		static const char *const ways[] = { "stop", "completion", "early", "server" };
		static const char *const ends[] = { "?", "migrated", "refused", "fell back", "discarded", "in doubt", "lost", "dead" };

		for (int i = 0; i < 4 * 2 * 8 * 8; i++)
			if (((unsigned char *)endings)[i])
				printf("ending: %s%s: %s / %s\n", ways[i / 128], i / 64 % 2 ? ", all here" : "", ends[i / 8 % 8],
				       ends[i % 8]);
	}
	__attribute__((constructor)) static void show_reached_at_exit(void)
	{
		atexit(show_reached);
	}
};

#define IMPLIES(a, b) assert(!(a) || (b))
#define RUNS (s_runs || (t_runs && !t_held))
#define BOTH_LIVE (s_end != DEAD && t_end != DEAD)

/* What docs/failure-model.md promises of every ending. */
inline judge_doubt()
{
	skip;
#if ARBITER == 0
	IMPLIES(s_end == IN_DOUBT, s_commit == DECIDED && !confirmed);
	IMPLIES(s_end == IN_DOUBT, t_end == IN_DOUBT || t_end == MIGRATED || t_end == LOST || t_end == DEAD);
	IMPLIES(t_end == IN_DOUBT, t_commit == IS_PREPARED && !t_told && !t_ordered && !t_runs);
	IMPLIES(t_end == IN_DOUBT, s_end == IN_DOUBT || s_end == FELL_BACK || s_end == DEAD);
#if TIMING == HEALS || TIMING == REPEATS
	IMPLIES(s_end == IN_DOUBT, t_end == DEAD || gave_up);
	IMPLIES(t_end == IN_DOUBT, s_end == DEAD || tells == 2 || gave_up);
#endif
#elif ARBITER == 1
	assert(s_end != IN_DOUBT && t_end != IN_DOUBT);
#endif
}

inline judge_ends()
{
	assert(!(t_runs && t_held) && !(s_runs && t_runs));
	IMPLIES(t_end == MIGRATED, t_runs && !missing && s_end != REFUSED && s_end != FELL_BACK);
	IMPLIES(t_runs, t_end == MIGRATED || t_end == IN_DOUBT);
	IMPLIES(s_end == REFUSED || s_end == FELL_BACK, s_runs);
	IMPLIES(s_runs, s_end == REFUSED || s_end == FELL_BACK || s_end == IN_DOUBT);
	IMPLIES(t_end == LOST, t_left && missing && t_commit == DECIDED);
	IMPLIES(s_end == LOST, s_left);
#if TIMING != STOPS && ARBITER == 1
	IMPLIES(t_end == LOST, t_ordered);
#endif
#if TIMING == HEALS || TIMING == REPEATS
	IMPLIES(t_end == LOST, s_end == DEAD || gave_up);
	IMPLIES(s_end == LOST, t_end == DEAD || gave_up);
#endif
}

/* A target that lacks pages got no answer before the source, which then gave it what it meant to give back. */
#define HEARD_TOO_LATE (ARBITER == 2 && t_end == IN_DOUBT && t_left && s_commit == DECIDED && !s_asked_late)

/* Somewhere the VM runs, unless it died with its owner, or memory is at one end and the right to run at the other. */
inline judge_life()
{
#if TIMING == HEALS
	IMPLIES(BOTH_LIVE, RUNS);
#else
	IMPLIES(BOTH_LIVE, RUNS || t_end == LOST || HEARD_TOO_LATE);
#endif
	IMPLIES(s_end == DEAD && t_end != DEAD, RUNS || missing || !was_prepared || went_back || source_claimed || t_told);
	IMPLIES(t_end == DEAD && s_end != DEAD, RUNS || s_commit == DECIDED || record == AT_TARGET);
}

proctype settle()
{
	atomic {
		s_settled && t_settled ->
		c_code { endings[now.way][now.all_here][now.s_end][now.t_end] = 1; };
		judge_doubt();
		if
		:: !ARBITER -> operator_settles()
		:: else
		fi;
		judge_ends();
		judge_life()
	}
}

init
{
	atomic {
#ifdef WAY
		way = WAY;
#else
		if
		:: way = STOP
		:: way = COMPLETION
		:: way = EARLY
		:: way = SERVER
		fi;
#endif
		run source();
		run target();
		run network();
		run settle()
	}
}
