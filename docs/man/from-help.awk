# SPDX-License-Identifier: MIT
# awk -f from-help.awk HELP PAGE.in: the commands and options as "rdma-migrate help" prints them, put into the page.
function ar(text) { gsub(/\|/, " | ", text); return text }
# A sentence, in lines of less than 80 characters
function sentence(text,   n, word, i, line, out)
{
	n = split(toupper(substr(text, 1, 1)) substr(text, 2) ".", word, " ")
	line = word[1]
	for (i = 2; i <= n; i++) {
		if (length(line) + length(word[i]) > 78) {
			out = out line "\n"
			line = word[i]
		} else {
			line = line " " word[i]
		}
	}
	return out line "\n"
}
FNR == NR && /^  rdma-migrate / {
	line = $0
	sub(/^  rdma-migrate /, "", line)
	about = ""
	if (match(line, /   +/)) {
		about = substr(line, RSTART + RLENGTH)
		line = substr(line, 1, RSTART - 1)
	}
	split(line, word, " ")
	if (line ~ /version \| help/) {
		commands = commands ".It Cm version\nThe versions of the program and of the library it has loaded.\n" \
			".It Cm help Op Ar command\nA summary of all this, or of one command; so does\n.Ar command\n.Fl -help .\n"
		next
	}
	commands = commands ".It Cm " word[1] "\n" sentence(about)
	next
}
FNR == NR && /^  --/ {
	name = $1
	sub(/^--/, "", name)
	value = ""
	rest = $0
	sub(/^  --[a-z0-9-]+/, "", rest)
	if (rest ~ /^ [^ ]/) {
		value = rest
		sub(/^ /, "", value)
		sub(/ .*/, "", value)
		rest = substr(rest, length(value) + 2)
	}
	sub(/^ +/, "", rest)
	takers = ""
	if (match(rest, / \([a-z, ]+\)$/)) {
		takers = substr(rest, RSTART + 2, RLENGTH - 3)
		rest = substr(rest, 1, RSTART - 1)
	}
	options = options ".It Fl Fl " name (value ? " Ar " ar(value) : "") "\n" sentence(rest)
	if (takers)
		options = options sentence("commands: " takers)
	next
}
FNR == NR { next }
/^@COMMANDS@$/ { printf "%s", commands; next }
/^@OPTIONS@$/ { printf "%s", options; next }
{ print }
