# SPDX-License-Identifier: MIT
# bash completion for rdma-migrate: whatever "rdma-migrate help" of the program that is completed says.
_rdma_migrate_commands()
{
	"$1" help 2>/dev/null | sed -n 's/^  rdma-migrate \([a-z |]*[a-z]\).*/\1/p' | tr -d '|'
}

# PROGRAM COMMAND: a line an option, "--name values"; an option whose line names no commands is for the two ends.
_rdma_migrate_options()
{
	"$1" help 2>/dev/null | awk -v command="$2" '
	/^  --/ {
		takers = match($0, /\([a-z, ]+\)$/) ? substr($0, RSTART + 1, RLENGTH - 2) : "run, source, target"
		values = ""
		if (match($0, /^  --[a-z0-9-]+ [^ ]+/)) {
			split(substr($0, RSTART, RLENGTH), word, " ")
			values = word[2]
		}
		if ((", " takers ", ") ~ (", " command ", "))
			print $1, values
	}'
}

_rdma_migrate()
{
	local program=$1 cur=$2 prev=$3 command=${COMP_WORDS[1]} values

	COMPREPLY=()
	if [ "$COMP_CWORD" = 1 ] || [[ $COMP_CWORD$command = 2help && $cur != -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_rdma_migrate_commands "$program")" -- "$cur")
		return
	fi
	values=$(_rdma_migrate_options "$program" "$command" | awk -v name="$prev" '$1 == name { print $2; exit }')
	case $values in
	*\[*) # WHO@PHASE[:MS]
		mapfile -t COMPREPLY < <(compgen -W "$(printf '%s ' {source,target,link}@{pre-migration,reservation,pre-copy,stop-and-copy,post-copy,commitment,activation})" -- "$cur")
		;;
	*'|'*) mapfile -t COMPREPLY < <(compgen -W "${values//|/ }" -- "$cur") ;;
	FILE | SOCKET) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	'') mapfile -t COMPREPLY < <(compgen -W "$(_rdma_migrate_options "$program" "$command" | awk '{ print $1 }')" -- "$cur") ;;
	esac
}
complete -o default -F _rdma_migrate rdma-migrate
