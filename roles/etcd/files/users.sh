# Whether etcd lets in its users, and nobody else ("ask"), or make it so ("make"). Standard input: a line for each user, root first, with its name,
# password and prefix; a password is nobody's to see, and an argument would be.
set -eu
logins=$(cat)
root=$(echo "$logins" | awk '$1 == "root" { print $1 ":" $2 }')

if [ "$1" = ask ]; then
  if etcdctl get / --limit 1 >/dev/null 2>&1; then exit 1; fi
  echo "$logins" | while read -r name password prefix; do
    ETCDCTL_USER=$name:$password etcdctl get "$prefix" --limit 1 --keys-only >/dev/null
  done
  exit
fi

# Once it asks who comes, that is root's to do.
etcdctl get / --limit 1 >/dev/null 2>&1 || export ETCDCTL_USER="$root"
known=$(etcdctl user list)
echo "$logins" | while read -r name password prefix; do
  if echo "$known" | grep -qxF "$name"; then verb=passwd; else verb=add; fi
  echo "$password" | etcdctl user "$verb" "$name" --interactive=false
  if [ "$name" != root ]; then
    etcdctl role list | grep -qxF "$name" || etcdctl role add "$name"
    etcdctl role grant-permission "$name" --prefix=true readwrite "$prefix"
  fi
  etcdctl user grant-role "$name" "$name"
done
etcdctl auth enable
