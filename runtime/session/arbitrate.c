// SPDX-License-Identifier: MIT
/* Ask the embedder's arbiter who owns the VM. */
#include <errno.h>
#include <string.h>

#include "arbitrate.h"
#include "session.h"

int arbitrate(struct ferry_session *s, enum ferry_owner want, enum ferry_owner *is)
{
	int err;

	*is = FERRY_OWNER_UNKNOWN;
	if (!s->ops.arbiter)
		return 0;
	err = s->ops.arbiter(s->vm, s->session, want, is);
	if (err >= 0 && *is != FERRY_OWNER_SOURCE && *is != FERRY_OWNER_TARGET)
		err = -EPROTO;
	if (err < 0)
		*is = FERRY_OWNER_UNKNOWN;
	session_log(s, err < 0 ? 3 : 5, NULL, "arbiter want=%s is=%s errno=%d", ferry_owner_name(want),
		    ferry_owner_name(*is), err < 0 ? -err : 0);
	s->arbiter_err = err < 0 ? err : 0;
	return s->arbiter_err;
}
