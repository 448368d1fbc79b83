{{/* Names. A component is the dictionary that `whipstaff.component` makes: root, key (in the values), name, values. */}}

{{- define "whipstaff.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "whipstaff.name" -}}
{{- printf "%s-%s" (include "whipstaff.fullname" .root) .name -}}
{{- end -}}

{{- define "whipstaff.lease" -}}
{{- include "whipstaff.name" . -}}
{{- end -}}

{{- define "whipstaff.account" -}}
{{- if .values.serviceAccount.create -}}
{{- default (include "whipstaff.name" .) .values.serviceAccount.name -}}
{{- else -}}
{{- required (printf "%s.serviceAccount.name: needed where serviceAccount.create is false" .key) .values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "whipstaff.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "whipstaff.labels" -}}
{{ include "whipstaff.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ .root.Chart.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "whipstaff.metadata" -}}
name: {{ include "whipstaff.name" . }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "whipstaff.labels" . | nindent 2 }}
{{- end -}}

{{- define "whipstaff.image" -}}
{{- $common := .root.Values.image -}}
{{- $own := .values.image -}}
{{- $at := printf "%s/%s" (default $common.registry $own.registry) $own.repository -}}
{{- if $own.digest -}}
{{- printf "%s@%s" $at $own.digest -}}
{{- else -}}
{{- printf "%s:%s" $at (coalesce $own.tag $common.tag .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "whipstaff.pullPolicy" -}}
{{- default .root.Values.image.pullPolicy .values.image.pullPolicy -}}
{{- end -}}

{{/* What a pod of any component has, before its containers. */}}
{{- define "whipstaff.pod" -}}
serviceAccountName: {{ include "whipstaff.account" . }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "whipstaff.spread" -}}
{{- if .values.topologySpread }}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "whipstaff.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "whipstaff.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "whipstaff.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* Probes of the port named https: health needs no credentials. */}}
{{- define "whipstaff.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: https, scheme: HTTPS}
  periodSeconds: 2
  failureThreshold: {{ .startupFailures | default 60 }}
livenessProbe:
  httpGet: {path: /livez, port: https, scheme: HTTPS}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: https, scheme: HTTPS}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}

{{- define "whipstaff.electionArgs" -}}
- --leader-elect=true
- --leader-elect-resource-namespace={{ .root.Release.Namespace }}
- --leader-elect-resource-name={{ include "whipstaff.lease" . }}
- --leader-elect-lease-duration={{ .values.leaderElection.leaseDurationSeconds }}s
- --leader-elect-renew-deadline={{ .values.leaderElection.renewDeadlineSeconds }}s
- --leader-elect-retry-period={{ .values.leaderElection.retryPeriodSeconds }}s
{{- end -}}

{{- define "whipstaff.lastArgs" -}}
- --v={{ .values.verbosity }}
- --logging-format={{ .values.logFormat }}
{{- range .values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "whipstaff.pullSecretNames" -}}
{{- $names := list -}}
{{- range .Values.imagePullSecrets }}{{ $names = append $names .name }}{{ end -}}
{{- join " " $names -}}
{{- end -}}

{{/* The command line of the kubeadm cluster's stock component; empty where none can be seen. */}}
{{- define "whipstaff.stockCommand" -}}
{{- $component := . -}}
{{- range (dig "items" list (default dict (lookup "v1" "Pod" "kube-system" ""))) -}}
{{- if eq $component (dig "metadata" "labels" "component" "" .) -}}
{{- $container := first .spec.containers -}}
{{- concat (default list $container.command) (default list $container.args) | join " " -}}
{{- end -}}
{{- end -}}
{{- end -}}
