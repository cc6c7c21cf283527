# Admit a host that has no data of the cluster, and remove members that the plan does not name; print what its first start has to know. Nothing is printed
# where there is no majority yet, so that it begins with the others.
# Usage: members.sh NAME URL "URL ..."   its own, and the addresses of all members of the plan; standard input as of users.sh
set -eu
root=$(awk '$1 == "root" { print $1 ":" $2 }')
etcdctl get / --limit 1 >/dev/null 2>&1 || export ETCDCTL_USER="$root"
etcdctl get / --limit 1 >/dev/null 2>&1 || exit 0

# One of before with its address is gone, and its data with it.
members=$(etcdctl member list)
echo "$members" | awk -F ', ' -v own="$2" -v plan=" $3 " '$4 == own || !index(plan, " " $4 " ") { print $1 }' | while read -r member; do
  etcdctl member remove "$member" >/dev/null
done
added=$(etcdctl member add "$1" --peer-urls="$2")
echo "$added" | sed -n 's/^\(ETCD_INITIAL_CLUSTER.*\)="\(.*\)"$/Environment=\1=\2/p'
