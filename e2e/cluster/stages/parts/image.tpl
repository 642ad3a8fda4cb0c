imageID: {{ printf "sha256:%s" (sha256sum .image) | Quote }}
containerID: {{ printf "kwok://%s" (sha256sum (printf "%s/%s" $.metadata.uid .name)) | Quote }}
