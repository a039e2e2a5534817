/* SPDX-License-Identifier: MIT */
/*
 * An arbiter on a shared directory: ferry_ops.arbiter for two hosts that mount the same file system (NFS, OCFS2,
 * GFS2, CephFS ...), or for one host. The first to ask decides, by link(2): a record appears whole or not at all,
 * and is on stable storage before anybody acts on it. The caller needs no lock and keeps no state.
 *
 * A record is a file of two lines, named by the session: SESSION.owner holds "source" or "target" and the session,
 * 32 hexadecimal digits. It stays: delete it when both ends have ended, never before.
 *
 *	static int my_arbiter(void *vm, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
 *	{
 *		struct ferry_arbiter_file a = { .size = sizeof(a), .dir = "/shared/ferry" };
 *		char why[FERRY_DETAIL_MAX];
 *		int err = ferry_arbiter_file_ask(&a, session, want, is, why, sizeof(why));
 *
 *		if (err)
 *			my_log(vm, why);
 *		return err;
 *	}
 */
#ifndef FERRY_ARBITER_FILE_H
#define FERRY_ARBITER_FILE_H

#include <ferry/ferry.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ferry_arbiter_file {
	size_t size;
	const char *dir;     /* exists, writable from both hosts, and the same directory on both */
	uint64_t timeout_us; /* a file server that does not answer; 3 s */
};

/*
 * If nothing is recorded for session, records want (FERRY_OWNER_SOURCE or FERRY_OWNER_TARGET); *is is what is recorded then.
 * Any thread. On failure *is is untouched and why, of cap bytes, holds one sentence:
 * -EINVAL; -ENOENT, -EACCES, -ENOSPC, -EROFS ... as the file system says; -EPERM, -EOPNOTSUPP where it has no hard
 * links; -EPROTO where a record is none of ours; -ETIMEDOUT. A call that has timed out may still record want as
 * long as the file server is not heard: asking again then gives the answer that stands.
 */
int ferry_arbiter_file_ask(const struct ferry_arbiter_file *a, const uint8_t session[16], enum ferry_owner want,
			   enum ferry_owner *is, char *why, size_t cap);

#ifdef __cplusplus
}
#endif
#endif
