#!/usr/bin/env bash
# The first process of one host: gives it a /tmp, home, /etc, /run, terminals and name of its own, and an sshd.
# init.sh NAME ADDRESS, with FOLDER (seen by all hosts), ENVIRONMENT (Python's prefix), KEYS and PEERS in the environment.
set -u
name=$1 address=$2
hostname "$name"
new=$(mktemp -d /var/tmp/host-"$name".XXXX)
mount -t tmpfs -o mode=1777,size=6g tmpfs "$new"
mkdir -p "$new/${FOLDER#/tmp/}" && mount --bind "$FOLDER" "$new/${FOLDER#/tmp/}"
disk=$FOLDER/disks/$name # what outlives a host's being switched off
[[ -e $disk ]] && again=yes
for dir in root etc home run; do # copy on write: the machine itself stays as it is
    [[ $dir == run ]] && disk=$new/.run
    mkdir -p "$disk/over/$dir" "$disk/work/$dir"
    mount -t overlay overlay -o "lowerdir=/$dir,upperdir=$disk/over/$dir,workdir=$disk/work/$dir" "/$dir" || exit 1
done
mount --move "$new" /tmp && rmdir "$new"
mount -t tmpfs -o mode=1777,size=2g tmpfs /dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts /dev/pts && mount --bind /dev/pts/ptmx /dev/ptmx
mkdir -p /run/sshd
if [[ -z ${again:-} ]]; then
    rm -rf /root/.ssh /root/.ray /root/.netrc /root/env
    mkdir -m 700 /root/.ssh
    cp "$KEYS/id.pub" /root/.ssh/authorized_keys && cp "$KEYS/id" /root/.ssh/id_ed25519 && chmod 600 /root/.ssh/*
    ln -s "$ENVIRONMENT" /root/env
fi
printf '127.0.0.1 localhost\n%b' "$PEERS" >/etc/hosts
: >/etc/resolv.conf
/usr/sbin/sshd -D -e -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o UsePAM=no -o UseDNS=no \
    -o ListenAddress="$address" -o MaxStartups=100 -o PidFile=/run/sshd.pid &
touch "$FOLDER/$name.ready"
while :; do sleep 3600 & wait; done # bash as the first process takes care of orphans
